"""RegNetY-400MF with a stem of stride 1, on CIFAR-10 for 8 epochs.

The training is that of every line_*.py experiment, so that only the network differs (docs/line.md).

Command:  python scripts/train.py line_regnety --data.dir DIR_OR_ZIP
Shows:    squeeze-and-excitation, at 35 M multiply-adds per image
Device:   any; 2 CPU cores suffice
Time:     not run; about 15 min on 2 CPU cores is expected
Expected: not run
"""

from cnnjax import create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Schedule, Train

experiment = Experiment(
    model=create("regnet_y_400mf", stem="cifar", input_size=32, num_classes=10),
    data=Data(source="cifar10", validation=0.1),
    augmentation=Augmentation(pad_crop=4, flip=True),
    optimizer=Optimizer(name="adam", lr=1e-3),
    schedule=Schedule(name="warmup_cosine"),
    train=Train(epochs=8, batch_size=128),
    early_stopping=EarlyStopping(metric="top1"),
)
