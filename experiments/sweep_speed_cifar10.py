"""Sweep of the narrow airbench94 over update rules, rates and averages on CIFAR-10.

Command:  python scripts/sweep.py speed_cifar10 --data.dir DIR_OR_ZIP
Shows:    whether muon learns more than Nesterov momentum in the same few epochs, and what averages add
Device:   an accelerator; over an hour on 2 CPU cores
Time:     not measured; 12 members of 7 epochs
Expected: not recorded yet
"""

from cnnjax import create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Schedule, Train
from cnnjax.sweep import Sweep, grid, zipped

experiment = Experiment(  # as in resnet_speed_cifar10
    model=create("airbench94", width=32),
    data=Data(source="cifar10", validation=0.1),
    augmentation=Augmentation(pad_crop=2, flip=True),
    optimizer=Optimizer(name="nesterov", lr=1.5, base_batch=1024, momentum=0.85, weight_decay=1.33e-3),
    schedule=Schedule(name="one_cycle_linear", start=0.2, peak=0.23, end=0.07),
    train=Train(epochs=7, batch_size=256, label_smoothing=0.2, views=6, freeze=("whiten/kernel",)),
    early_stopping=EarlyStopping(metric="top1"),
)
sweep = Sweep(
    axes=(
        zipped(
            {
                "optimizer.name": ("nesterov", "muon"),
                "optimizer.base_batch": (1024, None),
                "optimizer.momentum": (0.85, 0.95),
                "optimizer.weight_decay": (1.33e-3, 0.025),
            }
        ),
        grid("optimizer.lr", (0.75, 1.5, 3.0), when={"optimizer.name": ("nesterov",)}),
        grid("optimizer.lr", (0.01, 0.02, 0.04), when={"optimizer.name": ("muon",)}),
        grid("train.ema_decay", (None, 0.98)),
    )
)
