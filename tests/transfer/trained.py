"""A trained network in a run folder, without training: random parameters, and batch statistics of real images."""

from pathlib import Path

import jax
import jax.numpy as jnp

from cnnjax import checkpoint, create
from cnnjax.config import Data, Experiment, Optimizer, Phase, Train
from cnnjax.data import Preprocessing
from cnnjax.errors import Interrupted
from cnnjax.functional import init
from cnnjax.runs.launch import fit_in_folder
from cnnjax.runs.phase import Task
from cnnjax.training.hooks import Hook
from cnnjax.training.turns import finish

BODY = create("resnet20_cifar", depths=(1, 1), width=8, channels=1, input_size=28, num_classes=7)
"""A residual network with norms: stem, two stages, head."""
DENSE = create("mlp", num_classes=7)
"""A dense network with two stages and a head."""
PREPROCESSING = Preprocessing(height=28, width=28, mean=(0.3,), std=(0.2,))
PHASES = (
    Phase(train="head", epochs=2, lr=1e-2),
    Phase(train="stages:1", epochs=2, lr=1e-3),
    Phase(train="all", epochs=1, lr=1e-4, layer_decay=0.7, norms="train"),
)


def write_run(path: Path, arch=BODY, preprocessing=PREPROCESSING, seed: int = 3) -> Path:
    """Write a run folder as scripts/convert.py does; the statistics of its norms are not those of a new network."""
    variables = init(arch, jax.random.key(seed))
    batch_stats = jax.tree.map(lambda leaf: leaf + jnp.float32(0.25), variables.batch_stats)
    info = {
        "epoch": 0,
        "model": arch.to_dict(),
        "classes": [str(number) for number in range(arch.num_classes)],
        "preprocessing": preprocessing.to_dict(),
    }
    items = {"variables": {"params": variables.params, "batch_stats": batch_stats}}
    checkpoint.save(path / "checkpoints", 0, items, info)
    return path


def transfer_experiment(digits: Path, run: Path, **changes) -> Experiment:
    """Return an experiment that transfers the network to ten digits."""
    experiment = Experiment(
        model=BODY.replace(num_classes=10),
        data=Data(source="mnist", dir=str(digits), validation=0.2),
        optimizer=Optimizer(name="adamw", weight_decay=0.1),
        train=Train(batch_size=64, eval_batch_size=80),
        init=f"run:{run}",
        phases=PHASES,
    )
    return experiment.replace(**changes)


def make_task(experiment, dataset, folder, notices, stop_after: int | None = None) -> Task:
    """Return the task of a phased run that is interrupted at poll number ``stop_after``, counted through all phases."""
    polls = []

    def poll():
        polls.append(None)
        if len(polls) - 1 == stop_after:
            raise Interrupted("stopped")

    def fit(experiment, dataset, folder, initial):
        return finish(fit_in_folder(experiment, dataset, folder, Hook(), poll, initial=initial))

    return Task(experiment, dataset, folder, fit, notices.append)
