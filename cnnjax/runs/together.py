"""A training on several processes, one or more per host. Process 0 leads, the others follow.

The leader runs what a single process runs: it alone reads and writes the run folder, so a checkpoint has the files of a
run on one host and resumes on any number of processes. The followers load the data, receive the start from the leader,
and compute their share of every step and evaluation. Each function does nothing on one process.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from rich.console import Console

from cnnjax import data
from cnnjax.config import Experiment, flatten
from cnnjax.data import Dataset, Preprocessing
from cnnjax.errors import UserError, listed, quoted
from cnnjax.functional import abstract_variables
from cnnjax.parallel import all_processes, current_placement, processes
from cnnjax.runs.final_evaluation import EVALUATE, figures_of_splits
from cnnjax.system import signals
from cnnjax.system.console import say
from cnnjax.system.versions import version
from cnnjax.training.early_stopping import EarlyStoppingState
from cnnjax.training.hooks import AllHooks, Hook, Snapshot
from cnnjax.training.initial import initial_variables
from cnnjax.training.loop import Outcome, first_snapshot, plan, training
from cnnjax.training.out_of_memory import is_shortage
from cnnjax.training.profiling import Profile
from cnnjax.training.state import abstract_state
from cnnjax.training.turns import Steps, finish
from cnnjax.transfer.phases import resolved

START, END = "start", "end"
"""What the leader says next, besides `EVALUATE`: a training begins, or the run has ended."""
CLOCK = ("seconds", "images_per_second")
"""Figures of an epoch that each process measures itself."""
OWN = ("data.dir",)
"""Fields of an experiment that may differ between the processes."""
PACKAGES = ("cnnjax", "jax", "jaxlib")


@contextlib.contextmanager
def in_company(experiment: Experiment, resume_command: str) -> Iterator[None]:
    """Report an error of this process to the others, and explain the end of another one.

    Raises:
        UserError: the experiment cannot be trained on several processes.
        PartlyDone: a computation failed because another process has ended.
    """
    if processes.count() == 1:
        yield
        return
    try:
        if experiment.phases:
            raise UserError(
                "the experiment has phases, which train on one host; leave --coordinator out, or give --phases 0"
            )
        yield
    except Exception as error:
        if processes.is_broken(error) and not is_shortage(error):
            raise processes.lost(error, resume_command) from error
        processes.fail(error)
        raise


def share_preprocessing(preprocessing: Preprocessing | None) -> Preprocessing | None:
    """Return the leader's preprocessing of a trained network that the run starts from."""
    if processes.count() == 1:
        return preprocessing
    own = None if preprocessing is None else preprocessing.to_dict()
    of_leader = processes.exchange(own, signals.poll)[0]
    return None if of_leader is None else Preprocessing.from_dict(of_leader)


def require_same(experiment: Experiment, dataset: Dataset) -> None:
    """Raise UserError unless all processes have the experiment, the images and the packages of the leader."""
    if processes.count() == 1:
        return
    fields = flatten(experiment.to_dict())
    own = {
        **{name: quoted(value) for name, value in fields.items() if name not in OWN},
        "the sha256 of the images": dataset.content_hash,
        **{f"the version of {package}": version(package) for package in PACKAGES},
    }
    leader, *others = processes.exchange(own, signals.poll)
    for number, other in enumerate(others, 1):
        if different := [name for name in leader.keys() | other.keys() if leader.get(name) != other.get(name)]:
            name = min(different)
            more = f" (and {listed(sorted(different)[1:])})" if len(different) > 1 else ""
            raise UserError(
                f"{name} is {other.get(name, 'missing')} in process {number} and {leader.get(name, 'missing')} in "
                f"process 0{more}; start all processes with the same options, data and packages"
            )


def train(
    experiment: Experiment, dataset: Dataset, start: Snapshot | None, hooks: tuple[Hook, ...],
    poll: Callable[[], None] = signals.poll, profile: Profile | None = None,
) -> Steps[Outcome]:  # fmt: skip
    """Run a `training` on the devices of all processes, from the leader's start."""
    if processes.count() == 1:
        return (yield from training(experiment, dataset, start, hooks, poll, profile))
    _, hyperparameters = plan(experiment, dataset)
    if processes.is_leader():
        start = start or first_snapshot(experiment, hyperparameters, initial_variables(experiment, dataset))
        processes.exchange({
            "kind": START, "early_stopping": start.early_stopping.to_dict(), "rows": start.rows,
            "seconds": start.seconds,
        }, signals.poll)  # fmt: skip
    assert start is not None
    start = start._replace(state=processes.from_leader(start.state))
    with all_processes():
        stop = processes.StopTogether(current_placement())
        return (yield from training(experiment, dataset, start, (OwnHooks(hooks), Together()), stop, profile))


class OwnHooks(AllHooks):
    """The hooks of one process. They see its own arrays and devices, so they may compute without the others."""

    def epoch(self, snapshot: Snapshot) -> None:
        own = _own(snapshot)
        with all_processes(False):
            super().epoch(own)

    def interrupted(self, snapshot: Snapshot) -> None:
        own = _own(snapshot)
        with all_processes(False):
            super().interrupted(own)


def _own(snapshot: Snapshot) -> Snapshot:
    return snapshot._replace(state=current_placement().local(snapshot.state))


class Together(Hook):
    """The last hook: no process begins the next epoch, or ends, before the leader has saved."""

    def epoch(self, snapshot: Snapshot) -> None:
        """Wait for the leader.

        Raises:
            UserError: the processes have computed different figures.
        """
        own = {name: value for name, value in snapshot.rows[-1].items() if name not in CLOCK}
        leader, *others = processes.exchange(own)
        for number, other in enumerate(others, 1):
            if other != leader:
                raise UserError(
                    f"process {number} has computed other figures than process 0 in epoch {own['epoch']}; use the "
                    "same kind of devices and the same packages in all processes"
                )

    def interrupted(self, snapshot: Snapshot) -> None:
        processes.exchange(None)


def end(results: dict[str, Any], problems: list[str]) -> None:
    """Tell the followers that the run has ended."""
    if processes.count() > 1:
        processes.exchange({"kind": END, "results": results, "problems": problems})


def follow(experiment: Experiment, sources: Any, console: Console) -> tuple[dict[str, Any], list[str]]:
    """Take part in the leader's run; return its results and problems.

    Raises:
        CnnjaxError: the leader has failed, or this process cannot take part.
    """
    say(console, f"this is process {processes.number()}; process 0 prints and writes the run folder")
    dataset = data.load(experiment.data, sources, like=share_preprocessing(None))
    experiment = resolved(experiment, dataset, lambda text: None)
    require_same(experiment, dataset)
    while True:
        message = processes.exchange(None, signals.poll)[0]
        if message["kind"] == END:
            return message["results"], message["problems"]
        if message["kind"] == EVALUATE:
            figures_of_splits(experiment, dataset, zeros(abstract_variables(experiment.model)))
            continue
        finish(train(experiment, dataset, announced(message, experiment, dataset), ()))


def zeros(shapes: Any) -> Any:
    """Return arrays of these shapes and dtypes."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def announced(message: dict[str, Any], experiment: Experiment, dataset: Dataset) -> Snapshot:
    """Return the start that the leader announces; its arrays are zero until `train` receives them."""
    _, hyperparameters = plan(experiment, dataset)
    empty = zeros(abstract_state(experiment, hyperparameters))
    stopping = EarlyStoppingState.from_dict(message["early_stopping"])
    return Snapshot(empty, stopping, message["rows"], message["seconds"])
