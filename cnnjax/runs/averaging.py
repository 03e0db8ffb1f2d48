"""The mean of the parameters of several checkpoints of a run (Izmailov et al. 2018, section 3), as a new run folder.

The mean of the running statistics does not fit the mean parameters. The statistics are therefore recomputed (same
paper, section 3.2): the mean over all batches of the training images, in the order of the first epoch and without
augmentation, of the statistics of each batch in training mode. Without the training images they are averaged like the
parameters.

The new folder holds config.json, files.json and experiment.py of the run, and one checkpoint, whose info.json records
the run, the averaged epochs and where the statistics come from (``averaged``).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import checkpoint
from cnnjax.checkpoint import Checkpoint
from cnnjax.config import Experiment
from cnnjax.data import Dataset, Preprocessing, normalize
from cnnjax.errors import UserError, counted, listed, require
from cnnjax.functional import Tree, Variables, apply
from cnnjax.models.layers import Arch
from cnnjax.runs.definitions import BUILT_IN, COPY, Definitions
from cnnjax.runs.folder import FILES, FORMAT, read_config
from cnnjax.runs.naming import LONGEST_NAME
from cnnjax.runs.predictor import KINDS, Parameters, chosen_variables, describe
from cnnjax.system import formats, signals
from cnnjax.system.files import new_folder, read_bytes, require_empty, write_bytes, write_json
from cnnjax.training.loop import training_order
from cnnjax.training.state import step_key

DESCRIPTION = ("model", "classes", "preprocessing", "data")
"""Entries of a checkpoint's info that describe its network."""
Statistics = Literal["recomputed", "averaged"]
"""Where the batch statistics of an average come from."""


class Average(NamedTuple):
    """Mean variables of some epochs of a run."""

    run: Path
    name: str
    experiment: Experiment
    arch: Arch
    variables: Variables
    checkpoints: Sequence[Checkpoint]
    averaged: bool | None
    """As in `cnnjax.runs.predictor.Predictor`."""

    @property
    def epochs(self) -> list[int]:
        return [saved.info["epoch"] for saved in self.checkpoints]


def select_checkpoints(run: Path, last: int | None, epochs: Sequence[int]) -> list[Checkpoint]:
    """Return the checkpoints of the ``last`` epochs that are kept, or of the given ``epochs``, oldest first.

    Raises:
        UserError: the run does not keep them, or one is damaged.
    """
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{run} is not a run folder (it has no checkpoints/); give one such as runs/lenet_mini")
    if (last is None) == (not epochs):
        raise UserError("give either --last N or --epochs with the epochs to average")
    paths = [path for path in checkpoint.list_paths(folder) if path.name.startswith("step")]
    if last is not None:
        require(last >= 2, "--last", last, "2 or more")
        paths = paths[-last:]
    saved = [checkpoint.open_checkpoint(path) for path in paths]
    kept = {found.info.get("epoch", 0): found for found in saved}
    missing = sorted(set(epochs) - kept.keys())
    if missing or len(kept) < (last or 0):
        wanted = f"epoch {missing[0]}" if missing else f"the last {last}"
        raise UserError(
            f"{run} keeps {counted(len(kept), 'checkpoint')} (epochs {listed(map(str, kept), 10)}), not {wanted}; give "
            "others, or train with a larger --train.keep"
        )
    chosen = [kept[epoch] for epoch in sorted(set(epochs) or kept)]
    require(len(chosen) >= 2, "the number of epochs to average", len(chosen), "2 or more")
    return chosen


def average(
    run: Path, checkpoints: Sequence[Checkpoint], definitions: Definitions = BUILT_IN, parameters: Parameters = "auto",
    prepare: Callable[[Arch], None] = lambda arch: None,
) -> Average:  # fmt: skip
    """Return the mean of the variables in some checkpoints of a run, statistics included, summed in float64.

    ``prepare`` is called with the network before any array is read.

    Raises:
        UserError: the run has no config.json, or a checkpoint does not fit it.
    """
    if not (run / "config.json").is_file():
        raise UserError(f"{run} holds no config.json of a run; give the folder of a trained run")
    name, experiment = read_config(run / "config.json", definitions)
    arch = describe(checkpoints[-1], definitions.families).arch
    prepare(arch)
    total: Any = None
    averaged: bool | None = None
    for saved in checkpoints:
        variables, averaged = chosen_variables(run, saved, arch, definitions, parameters)
        total = _added(total, variables)
    mean = _divided(total, len(checkpoints), variables)
    return Average(run, name, experiment, arch, mean, checkpoints, averaged)


def recomputed_statistics(mean: Average, dataset: Dataset) -> Tree:
    """Return the mean over the batches of the training images of each batch's statistics; see the module.

    Modules whose parameters are frozen (``train.freeze``) keep their statistics.

    Raises:
        UserError: the network has no option ``momentum``.
    """
    if not hasattr(mean.arch, "momentum"):
        raise UserError(
            f"the network {mean.arch.family} has no option momentum, which recomputing its statistics needs; give "
            "--statistics averaged"
        )
    experiment, source = mean.experiment, dataset.train
    size = min(experiment.train.batch_size, len(source.labels))
    order = training_order(experiment, source.labels, 0)
    arch = mean.arch.replace(momentum=0.0)  # the new statistics are then those of the batch
    total: Any = None
    batches = len(source.labels) // size
    for number in range(batches):
        images = source.read(order[number * size : (number + 1) * size])
        key = jax.random.fold_in(step_key(experiment.seed), number)
        stats = _batch_statistics(
            arch, dataset.preprocessing, mean.variables, images, key, frozen=experiment.train.freeze
        )
        total = _added(total, stats)
        signals.poll()
    recomputed: Tree = _divided(total, batches, mean.variables.batch_stats)
    return recomputed


def _added(total: Any, tree: Any) -> Any:
    """Return the sum in float64; a total of None is empty."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
    return wide if total is None else jax.tree.map(np.add, total, wide)


def _divided(total: Any, count: int, like: Any) -> Any:
    """Return the mean, in the dtypes of ``like``."""
    return jax.tree.map(lambda leaf, old: jnp.asarray(leaf / count, old.dtype), total, like)


def _batch_statistics_of(
    arch: Arch, preprocessing: Preprocessing, variables: Variables, images: jax.Array, key: jax.Array,
    frozen: tuple[str, ...],
) -> Tree:  # fmt: skip
    pixels = normalize(preprocessing, images, arch.dtype)
    return apply(arch, variables, pixels, train=True, key=key, frozen=frozen)[1]


_batch_statistics = jax.jit(_batch_statistics_of, static_argnames=("arch", "preprocessing", "frozen"))


def write_average(mean: Average, out: Path, statistics: Statistics) -> None:
    """Write the average as the run folder ``out``, atomically.

    Raises:
        UserError: ``out`` exists and is not empty, or a file could not be written.
    """
    require_empty(out)
    newest = mean.checkpoints[-1]
    info = {
        "epoch": newest.info["epoch"],
        **{entry: newest.info[entry] for entry in DESCRIPTION if entry in newest.info},
        "averaged": {
            "run": str(mean.run.resolve()), "epochs": mean.epochs, "parameters": KINDS[mean.averaged],
            "statistics": statistics if mean.variables.batch_stats else None,
        },
    }  # fmt: skip
    name = f"{mean.name},average={'+'.join(map(str, mean.epochs))}"[:LONGEST_NAME]
    with new_folder(out) as folder:
        write_json(
            folder / "config.json",
            {**formats.written(FORMAT), "name": name, "experiment": mean.experiment.to_dict()},
        )
        for file, most_mib in ((FILES, 256), (COPY, 16)):
            if (mean.run / file).is_file():
                write_bytes(folder / file, read_bytes(mean.run / file, most_mib))
        checkpoint.save(folder / "checkpoints", newest.step, {"variables": mean.variables._asdict()}, info)
