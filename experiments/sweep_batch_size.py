"""Sweep of LeNet-5 over batch sizes on Fashion-MNIST, with the same number of epochs.

Command:  python scripts/sweep.py batch_size --data.dir DIR
Shows:    what fewer and larger updates cost, at one learning rate
Device:   any; 2 CPU cores suffice
Time:     not measured; 15 members of 10 epochs
Expected: not recorded yet
"""

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Train
from cnnjax.sweep import Sweep, grid

experiment = Experiment(
    model=create("lenet", activation="relu", pooling="avg"),
    data=Data(source="fashion_mnist"),
    optimizer=Optimizer(name="adam", lr=1e-3),
    train=Train(epochs=10, batch_size=32),
)
sweep = Sweep(
    axes=(
        grid("train.batch_size", (16, 32, 64, 128, 256)),
        grid("seed", range(3)),
    )
)
