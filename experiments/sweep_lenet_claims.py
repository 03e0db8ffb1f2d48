"""Sweep of LeNet-5 over four activations and three optimizers on Fashion-MNIST: which of the course's claims hold?

Command:  python scripts/sweep.py lenet_claims --data.dir DIR
Shows:    whether ReLU beats the sigmoid, and adam beats SGD, with every activation
Device:   any; 2 CPU cores suffice
Time:     not measured; 36 members of 10 epochs
Expected: not recorded yet
"""

from cnnjax import create
from cnnjax.config import Data, Experiment, Train
from cnnjax.sweep import Sweep, grid, zipped

experiment = Experiment(
    model=create("lenet", activation="sigmoid", pooling="avg"),
    data=Data(source="fashion_mnist"),
    train=Train(epochs=10, batch_size=32),
)
sweep = Sweep(
    axes=(
        grid("model.activation", ("relu", "sigmoid", "tanh", "gelu")),
        zipped({"optimizer.name": ("adam", "sgd", "momentum"), "optimizer.lr": (1e-3, 1e-2, 1e-2)}),
        grid("seed", range(3)),
    )
)
