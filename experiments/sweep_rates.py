"""Sweep of LeNet-5 over seven rates of adam and of SGD on Fashion-MNIST: how much does each depend on the rate?

Command:  python scripts/sweep.py rates --data.dir DIR
Shows:    the sensitivity of adam and SGD to the learning rate
Device:   any; 2 CPU cores suffice
Time:     not measured; 42 members of 10 epochs
Expected: not recorded yet
"""

from cnnjax import create
from cnnjax.config import Data, Experiment, Train
from cnnjax.sweep import Sweep, grid, log_grid

experiment = Experiment(
    model=create("lenet", activation="relu", pooling="avg"),
    data=Data(source="fashion_mnist"),
    train=Train(epochs=10, batch_size=32),
)
sweep = Sweep(
    axes=(
        grid("optimizer.name", ("adam", "sgd")),
        grid("optimizer.lr", log_grid(1e-4, 1, 7)),
        grid("seed", range(3)),
    )
)
