"""Sweep of LeNet-5 over average and max pooling on Fashion-MNIST.

Command:  python scripts/sweep.py pooling --data.dir DIR
Shows:    what max pooling gains over average pooling, with the sigmoid and with ReLU
Device:   any; 2 CPU cores suffice
Time:     not measured; 12 members of 10 epochs
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
        grid("model.pooling", ("avg", "max")),
        grid("model.activation", ("relu", "sigmoid")),
        grid("seed", range(3)),
    )
)
