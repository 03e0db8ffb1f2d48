"""`scripts/train.py NAME --find-lr`: a learning-rate range test in a folder of its own, beside the run folder.

RUN-find-lr/find_lr.json    the curve, the suggestion and the experiment
RUN-find-lr/find_lr.html    the curve as a page
"""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cnnjax import data
from cnnjax.config import Experiment
from cnnjax.errors import UserError
from cnnjax.optim import scaled_rate
from cnnjax.report import range_page
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.launch import Launch
from cnnjax.runs.origin import placed, read_start
from cnnjax.system.console import say
from cnnjax.system.files import make_folder, read_json, write_json
from cnnjax.training.loop import plan
from cnnjax.training.range_test import HIGHEST, LOWEST, Curve, Suggestion, range_test, suggestion, sweep_steps

KIND = "learning-rate range test"
RECORD, PAGE = "find_lr.json", "find_lr.html"
OWN_FILES = {name for file in (RECORD, PAGE) for name in (file, f".{file}.writing")}


def find_learning_rate(launch: Launch, console: Console, steps: int | None = None) -> dict[str, Any]:
    """Test learning rates on a copy of the run's initial state; return the record that find_lr.json holds.

    The run folder is not created or changed. The files are in the folder ``launch.folder`` with ``-find-lr`` added.

    Raises:
        UserError: the config does not fit the data, the experiment has phases, or the folder holds other files.
        Diverged: the loss was not finite at the first step.
    """
    experiment, folder = launch.experiment, folder_beside(launch.folder)
    if experiment.phases:
        raise UserError("--find-lr is given for an experiment with phases; give --phases 0 too, to train it once")
    _require_own(folder)
    start = read_start(experiment, RunFolder(launch.folder, launch.definitions))
    dataset = data.load(experiment.data, launch.definitions.sources, like=start.preprocessing)
    for notice in (*start.notices, *dataset.notices):
        say(console, f"notice: {notice}")
    initial = start.variables if start.origin is None else placed(experiment, start.origin)
    count = sweep_steps(plan(experiment, dataset)[0], steps)
    say(console, f"{launch.name}: learning rates from {LOWEST:g} to {HIGHEST:g} in {count:,} steps")
    with Progress(
        TextColumn("{task.fields[figures]}"), BarColumn(bar_width=8), MofNCompleteColumn(), console=console,
        transient=True, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=count, figures="")
        curve = range_test(
            experiment, dataset, count, initial,
            watch=lambda step, rate, loss: bar.update(task, completed=step, figures=f"{rate:.2g} loss {loss:.3f}"),
        )  # fmt: skip
    suggested = suggestion(curve)
    sentence = _sentence(experiment, suggested)
    record = _record(launch, curve, suggested)
    make_folder(folder)
    write_json(folder / RECORD, record)
    range_page.write(folder / PAGE, launch.name, experiment, curve, suggested, sentence)
    if curve.diverged:
        say(console, f"the loss grew too high at {curve.rates[-1]:.3g}, after {len(curve.rates):,} steps")
    say(console, sentence)
    say(console, f"results: {folder}/   open {folder / PAGE}")
    return record


def folder_beside(run: Path) -> Path:
    """Return the folder of the test of a run, beside the run folder."""
    return run.with_name(f"{run.name}-find-lr")


def rates_of(experiment: Experiment, steepest: float) -> dict[str, float]:
    """Return the options of the optimizer that make ``steepest`` the base learning rate, before linear scaling."""
    lr = steepest * experiment.optimizer.lr / scaled_rate(experiment)
    if experiment.optimizer.name != "muon":
        return {"lr": lr}
    return {"lr": lr, "adam_lr": lr * experiment.optimizer.adam_lr / experiment.optimizer.lr}


def _sentence(experiment: Experiment, suggested: Suggestion | None) -> str:
    if suggested is None:
        return "No suggestion: the smoothed loss did not clearly fall at any rate; try more steps with --find-lr-steps."
    pairs = rates_of(experiment, suggested.steepest).items()
    options = " ".join(f"--optimizer.{name.replace('_', '-')} {rate:.3g}" for name, rate in pairs)
    return (
        f"Suggestion: {options}, where the smoothed loss falls most steeply. The loss is lowest at "
        f"{rates_of(experiment, suggested.lowest)['lr']:.3g}; a tenth of it is another common choice."
    )


def _record(launch: Launch, curve: Curve, suggested: Suggestion | None) -> dict[str, Any]:
    return {
        "kind": KIND,
        "name": launch.name,
        "experiment": launch.experiment.to_dict(),
        "suggestion": None if suggested is None else rates_of(launch.experiment, suggested.steepest),
        "steepest": None if suggested is None else suggested.steepest,
        "lowest": None if suggested is None else suggested.lowest,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in curve._asdict().items()},
    }


def _require_own(folder: Path) -> None:
    """Raise UserError if the folder exists and holds anything but an earlier test."""
    refusal = UserError(f"{folder} holds files other than those of --find-lr; move it away, or choose another --out")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise refusal
    if not folder.exists():
        return
    if any(path.name not in OWN_FILES for path in folder.iterdir()):
        raise refusal
    if (folder / RECORD).exists():
        record = read_json(folder / RECORD)
        if not isinstance(record, dict) or record.get("kind") != KIND:
            raise refusal
