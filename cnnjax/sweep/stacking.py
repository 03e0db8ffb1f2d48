"""Train members of a group side by side in one device call, each in its own run folder."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from cnnjax.data import Dataset
from cnnjax.data.loader import loading_plan
from cnnjax.errors import Interrupted
from cnnjax.ops.dispatch import steps_per_dispatch
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.launch import Finished, Launch, finish_run, record_start, resume_in_folder, run_steps, start_run
from cnnjax.runs.metrics_log import MetricsLog
from cnnjax.sweep.members import Member
from cnnjax.sweep.progress import QUIET
from cnnjax.training import out_of_memory
from cnnjax.training.hooks import Hook
from cnnjax.training.loop import Outcome, plan
from cnnjax.training.stacked import StackMember, fit_stacked
from cnnjax.training.turns import take_turns

STACK = 32
"""Maximum members in a stack."""


class _Open(NamedTuple):
    """A member whose run folder is locked."""

    member: Member
    launch: Launch
    folder: RunFolder
    lock: contextlib.ExitStack
    log: MetricsLog
    training: StackMember
    within: int
    """Number of trained steps of its current epoch; it must be equal for all members of a stack."""


def can_be_stacked(member: Member, dataset: Dataset) -> bool:
    """Return whether the group's images stay on the device, without class weights, so that members can share them."""
    batch_size = member.experiment.train.batch_size
    steps = steps_per_dispatch(jax.default_backend(), len(dataset.train.labels) // batch_size)
    return loading_plan(dataset.train, batch_size, steps).resident and member.experiment.train.balance != "weights"


Run = tuple[Member, Launch, Hook]


def run_stacked(runs: Sequence[Run], dataset: Dataset) -> Iterator[tuple[Member, Finished | Exception]]:
    """Train members stacked; yield each with its results or its error, as it ends.

    If a stack does not fit into the memory of the device, its members train in turn, from their last checkpoints.
    """
    for part in (runs[start : start + STACK] for start in range(0, len(runs), STACK)):
        ended: set[str] = set()
        try:
            for member, outcome in _run_stack(part, dataset):
                ended.add(member.title)
                yield member, outcome
        except out_of_memory.ERRORS as error:
            if not out_of_memory.is_shortage(error):
                raise
            left = [run for run in part if run[0].title not in ended]
            left[0][2].notice(f"notice: {len(left)} members together need too much memory; they train one by one")
            yield from take_turns(((m, run_steps(launch, dataset, QUIET, hook)) for m, launch, hook in left), 1)


def _run_stack(runs: Sequence[Run], dataset: Dataset) -> Iterator[tuple[Member, Finished | Exception]]:
    with contextlib.ExitStack() as locks:
        opened: list[_Open] = []
        for member, launch, hook in runs:
            try:
                opened.append(_open(member, launch, hook, dataset))
                locks.push(opened[-1].lock)
            except Interrupted:
                raise
            except Exception as error:
                yield member, error
        for _, group in itertools.groupby(sorted(opened, key=lambda run: run.within), lambda run: run.within):
            by_title = {run.member.title: run for run in group}
            members = [(title, run.training) for title, run in by_title.items()]
            for title, outcome in fit_stacked(members, dataset):
                run = by_title[title]
                with run.lock:  # released before the caller records how the member ended
                    ended = outcome if isinstance(outcome, Exception) else _finished(run, outcome, dataset)
                yield run.member, ended


def _open(member: Member, launch: Launch, hook: Hook, dataset: Dataset) -> _Open:
    """Lock the member's folder and read its newest checkpoint."""
    folder = RunFolder(launch.folder, launch.definitions)
    folder.check(launch.experiment)
    with contextlib.ExitStack() as lock:
        lock.enter_context(folder.locked())
        start_run(folder, launch, hook)
        steps_per_epoch, _ = plan(launch.experiment, dataset)
        record_start(folder, launch, dataset, steps_per_epoch, hook, stacked=True)
        start, log, hooks = resume_in_folder(launch.experiment, dataset, folder, hook)
        within = 0 if start is None else int(start.state.step) % steps_per_epoch
        training = StackMember(launch.experiment, start, hooks)
        return _Open(member, launch, folder, lock.pop_all(), log, training, within)


def _finished(run: _Open, outcome: Outcome, dataset: Dataset) -> Finished | Exception:
    """Evaluate and report a member whose training has ended; an error ends only this member."""
    try:
        return finish_run(run.folder, run.launch, dataset, outcome, run.log.problem)
    except Interrupted:
        raise
    except Exception as error:
        return error
