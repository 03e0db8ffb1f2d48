"""Sweep of LeNet-5 over activations, optimizers and rates on Fashion-MNIST: 315 members.

Command:  python scripts/sweep.py activations_optimizers --data.dir DIR
Shows:    which activation and optimizer LeNet-5 prefers if each has three rates to choose from
Device:   any; several hours on 2 CPU cores, so start with --only model.activation=relu
Time:     not measured; --dry-run estimates it from the members that have finished
Expected: not recorded; sweep_lenet_claims is the part of it that docs/results.md discusses
"""

from cnnjax import create
from cnnjax.config import Data, Experiment, Train
from cnnjax.sweep import Sweep, grid, log_grid

ADAPTIVE, PLAIN = ("adam", "adamw", "rmsprop"), ("sgd", "momentum")

experiment = Experiment(
    model=create("lenet", activation="sigmoid", pooling="avg"),
    data=Data(source="fashion_mnist"),
    train=Train(epochs=10, batch_size=32),
)
sweep = Sweep(
    axes=(
        grid("model.activation", ("relu", "sigmoid", "tanh", "gelu", "silu", "elu", "leaky_relu")),
        grid("optimizer.name", (*ADAPTIVE, *PLAIN)),
        grid("optimizer.lr", log_grid(1e-4, 1e-2, 3), when={"optimizer.name": ADAPTIVE}),
        grid("optimizer.lr", log_grid(1e-2, 1, 3), when={"optimizer.name": PLAIN}),
        grid("seed", range(3)),
    )
)
