"""Sweep of 8 members on the embedded subset of Fashion-MNIST: two activations, two rates, two seeds.

Command:  python scripts/sweep.py smoke
Shows:    the whole path from axes to a table with intervals, without a download
Device:   any; 2 CPU cores suffice
Time:     67 s of processor time, reports included, on 2 CPU cores that ran other work at the same time
Expected: mean test top-1 of 84.8 % with ReLU and 75.1 % with the sigmoid at 2e-3; with two seeds, no interval of a
          comparison excludes 0
"""

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Train
from cnnjax.sweep import Sweep, grid

experiment = Experiment(
    model=create("lenet", activation="relu", pooling="max"),
    data=Data(source="fashion_mnist_mini"),
    optimizer=Optimizer(name="adam", lr=2e-3),
    train=Train(epochs=3, batch_size=64),
)
sweep = Sweep(
    axes=(
        grid("model.activation", ("relu", "sigmoid")),
        grid("optimizer.lr", (5e-4, 2e-3)),
        grid("seed", range(2)),
    )
)
