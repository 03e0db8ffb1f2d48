"""Sweep of ResNet-20 on CIFAR-10 over the parts of newer recipes, each added alone to a plain training.

Command:  python scripts/sweep.py recipe_parts --data.dir DIR_OR_ZIP
Shows:    which part helps a short training of a small network, and by how much beside the spread of three seeds; strong
          augmentation needs longer trainings, so repeat with --train.epochs 40 --schedule.boundaries 20ep 30ep
Device:   an accelerator; about 4 hours on 2 CPU cores
Time:     not measured; 33 members of 8 epochs
Expected: not recorded yet
"""

from typing import Any

from cnnjax import create
from cnnjax.config import Data, EarlyStopping, Experiment, Optimizer, Schedule, Train
from cnnjax.sweep import Sweep, grid, zipped

PLAIN = {
    "augmentation.pad_crop": 0, "augmentation.flip": False, "train.label_smoothing": 0.0, "schedule.name": "step",
    "augmentation.mixup": 0.0, "augmentation.cutmix": 0.0, "augmentation.auto_augment": "none",
    "augmentation.erase": 0.0, "train.ema_decay": None, "optimizer.name": "momentum", "optimizer.lr": 0.1,
    "optimizer.weight_decay": 1e-4,
}  # fmt: skip
PARTS: tuple[dict[str, Any], ...] = (
    {},
    {"augmentation.pad_crop": 4, "augmentation.flip": True},
    {"train.label_smoothing": 0.1},
    {"schedule.name": "one_cycle"},
    {"augmentation.mixup": 0.2},
    {"augmentation.cutmix": 1.0},
    {"augmentation.auto_augment": "randaugment"},
    {"augmentation.auto_augment": "trivialaugment"},
    {"augmentation.erase": 0.25},
    {"train.ema_decay": 0.995},
    {"optimizer.name": "muon", "optimizer.lr": 0.02, "optimizer.weight_decay": 5e-4},  # decays as fast as the others
)
ROWS = [{**PLAIN, **part} for part in PARTS]

experiment = Experiment(
    model=create("resnet20_cifar"),
    data=Data(source="cifar10", validation=0.1),
    optimizer=Optimizer(name="momentum", lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Schedule(name="step", boundaries=("4ep", "6ep"), factor=0.1),
    train=Train(epochs=8, batch_size=128),
    early_stopping=EarlyStopping(metric="top1"),
)
sweep = Sweep(axes=(zipped({option: [row[option] for row in ROWS] for option in PLAIN}), grid("seed", range(3))))
