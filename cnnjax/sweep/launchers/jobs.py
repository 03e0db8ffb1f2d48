"""A group of members as a job of another process, which may run on another machine.

A job is plain data: the worker executes the same experiment file and trains the members with the given IDs in the same
store. The file, the store and the data must therefore have the same path on every machine.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from cnnjax.errors import UserError
from cnnjax.runs.definitions import run_file
from cnnjax.sweep import store
from cnnjax.sweep.members import Member, expand
from cnnjax.sweep.progress import SweepProgress
from cnnjax.sweep.running import Ended, Launcher, SweepLaunch, failure, train_here
from cnnjax.sweep.store import State
from cnnjax.system.signals import deferred_signals

Start = Callable[[Any], None]
"""Function of the network that selects the platform of JAX in the worker; a worker imports it by its name."""


class Job(NamedTuple):
    """The members to train, and what a worker needs to find them."""

    file: Path
    name: str
    root: Path
    data_dir: str | None
    members: tuple[str, ...]
    """IDs of the members."""
    start: Start


class Result(NamedTuple):
    """How a member ended."""

    id: str
    text: str
    failure: State | None


Execute = Callable[[Sequence[Job]], Iterator[tuple[Job, list[Result] | Exception]]]
"""Runs `train` for each job elsewhere; yields each job with its results, or with the error that ended its worker."""


def launcher(start: Start, execute: Execute) -> Launcher:
    """Return the launcher that trains each group as a job."""

    def launch_jobs(
        launch: SweepLaunch, groups: Sequence[tuple[Member, ...]], progress: SweepProgress
    ) -> Iterator[Ended]:  # fmt: skip
        members = {launch.member_folder(member).name: member for group in groups for member in group}
        jobs = [_job(launch, group, start) for group in groups]
        for job, outcome in execute(jobs) if jobs else ():
            if isinstance(outcome, Exception):
                outcome = list(_lost(launch, job, members, outcome))
            for result in outcome:
                yield Ended(members[result.id], result.text, result.failure)

    return launch_jobs


def _job(launch: SweepLaunch, group: Sequence[Member], start: Start) -> Job:
    if launch.file is None:
        raise UserError("the sweep has no file; a launcher needs one, because its workers execute it")
    ids = tuple(launch.member_folder(member).name for member in group)
    data_dir = launch.base.data.dir
    absolute = None if data_dir is None else str(Path(data_dir).resolve())
    return Job(launch.file, launch.name, launch.root.resolve(), absolute, ids, start)


def _lost(launch: SweepLaunch, job: Job, members: dict[str, Member], error: Exception) -> Iterator[Result]:
    """Yield the results of a job whose worker was lost: members that had ended by then, and failed ones."""
    for id in job.members:
        if (state := store.state(store.member_folder(launch.root, id))).status == "finished":
            yield Result(id, "finished", None)
        elif state.status == "diverged":
            yield Result(id, f"diverged: {state.problem}", state)
        else:
            ended = failure(launch, members[id], error)
            yield Result(id, ended.text, ended.failure)


def train(job: Job) -> list[Result]:
    """Train the members of a job in this process; return how each of them ended.

    Raises:
        UserError: the experiment file is not the one that the sweep was started from.
        Interrupted: the worker was asked to end; the positions of the members in progress are saved.
    """
    loaded = run_file(job.file)
    base = loaded.experiment.replace(data=loaded.experiment.data.replace(dir=job.data_dir))
    job.start(base.model)
    launch = SweepLaunch(job.name, "", base, loaded.sweep, job.root, loaded.definitions, job.file)
    known = {launch.member_folder(member).name: member for member in expand(base, loaded.sweep)}
    if not known.keys() >= set(job.members):
        raise UserError(f"{job.file} has changed since the sweep was started; start it again")
    progress = SweepProgress(Console(file=sys.stdout), len(job.members), 0)  # its notices are the log of the worker
    with deferred_signals("the worker was interrupted"):
        ended = train_here(launch, [tuple(known[id] for id in job.members)], progress)
        results = {launch.member_folder(end.member).name: Result("", end.text, end.failure) for end in ended}
    progress.close()
    return [results.get(id, Result("", "finished elsewhere", None))._replace(id=id) for id in job.members]
