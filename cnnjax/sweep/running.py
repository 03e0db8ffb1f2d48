"""Run a sweep: train the members that are missing, group by group, and write the table and the page."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from cnnjax import data
from cnnjax.config import Experiment
from cnnjax.data import Dataset
from cnnjax.errors import PartlyDone, UserError, counted, listed, require
from cnnjax.models import variant_like
from cnnjax.ops.dispatch import members_are_stacked
from cnnjax.runs.definitions import BUILT_IN, Definitions
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.launch import Finished, Launch, run_steps
from cnnjax.runs.naming import run_name
from cnnjax.sweep import page, store, table
from cnnjax.sweep.axes import PREFIX, Sweep
from cnnjax.sweep.members import Member, expand, groups, select
from cnnjax.sweep.progress import QUIET, MemberProgress, SweepProgress
from cnnjax.sweep.stacking import can_be_stacked, run_stacked
from cnnjax.sweep.store import State
from cnnjax.sweep.table import Row
from cnnjax.system.console import say
from cnnjax.system.signals import deferred_signals
from cnnjax.training.loop import plan
from cnnjax.training.turns import take_turns

TOGETHER = 4
"""Members in progress at a time. Their states are in memory together, and a kill interrupts all of them."""


class SweepLaunch(NamedTuple):
    """A sweep with its name, its experiment and definitions, and the folder of its store."""

    name: str
    title: str
    base: Experiment
    sweep: Sweep
    root: Path
    definitions: Definitions = BUILT_IN
    file: Path | None = None
    """The experiment file, from which the workers of a launcher read the sweep."""

    @property
    def folder(self) -> Path:
        """The folder of the sweep's own files."""
        return self.root / self.short_name

    @property
    def short_name(self) -> str:
        """The name without the prefix of published sweeps."""
        return self.name.removeprefix(PREFIX)

    def member_folder(self, member: Member) -> Path:
        return store.member_folder(self.root, store.identity(member.experiment, self.definitions))

    def member_launch(self, member: Member) -> Launch:
        """Return the launch of a member as `scripts/train.py` would name it."""
        name, base = self.name, self.base
        if "model" in member.values:
            name = f"{name},model={member.values['model']}"
            base = base.replace(model=variant_like(base.model, member.values["model"]))
        full = run_name(name, base, member.experiment)
        return Launch(full, member.experiment, self.member_folder(member), self.definitions)


class Planned(NamedTuple):
    """A group of members with the same programs and data, and the steps of each member."""

    members: tuple[Member, ...]
    dataset: Dataset
    steps: dict[str, int]
    """Steps of each member's training by title."""


def planned(launch: SweepLaunch, only: Sequence[str] = ()) -> Iterator[Planned]:
    """Yield the groups of the selected members; only the data of one group is in memory at a time.

    Raises:
        UserError: an option, a value or a selection is invalid, or a member does not fit its data or its folder.
    """
    members = select(expand(launch.base, launch.sweep), only)
    dataset, config = None, None
    for group in sorted(groups(members), key=lambda group: repr(group[0].experiment.data)):
        if dataset is None or group[0].experiment.data != config:
            config = group[0].experiment.data
            dataset = data.load(config, launch.definitions.sources)
        steps = {}
        for member in group:
            if member.experiment.init or member.experiment.continue_from or member.experiment.phases:
                raise UserError(
                    f"the member {member.title} has init, continue_from or phases; a sweep trains from the seed in one "
                    "phase, so train it with scripts/train.py"
                )
            RunFolder(launch.member_folder(member), launch.definitions).check(member.experiment)
            per_epoch, _ = plan(member.experiment, dataset)
            steps[member.title] = per_epoch * member.experiment.train.epochs
        yield Planned(group, dataset, steps)


class Ended(NamedTuple):
    """How a member ended: the text of its line, and its state if it failed or diverged."""

    member: Member
    text: str
    failure: State | None = None
    steps: int | None = None
    """Steps of its plan that the progress bar has not counted; None: all of them."""


Launcher = Callable[[SweepLaunch, Sequence[tuple[Member, ...]], SweepProgress], Iterator[Ended]]
"""Trains groups of members that share a program and yields each member as it ends; `train_here` is the default."""


def run(
    launch: SweepLaunch, console: Console, only: Sequence[str] = (), *, parquet: bool = False,
    resume_command: str = "the same call", launcher: Launcher | None = None, searches: bool = False,
) -> None:  # fmt: skip
    """Train the selected members that have not finished or diverged; write ``sweep.csv`` and ``report.html``.

    A launcher that ``searches`` may leave members untrained, and a member that diverged is a result of the search.

    Raises:
        UserError: bad input; nothing has been trained or written.
        Interrupted: Ctrl-C, SIGTERM or SIGUSR1; the positions of the members in progress are saved.
        PartlyDone: some members diverged or failed; the message lists them.
    """
    require(launch.short_name != store.MEMBERS, "the name of the sweep", launch.name, "another name; rename its file")
    if parquet:
        table.require_parquet()
    with deferred_signals(f"interrupted; to resume: {resume_command}"):
        notices: dict[str, None] = {}
        steps: dict[str, int] = {}
        pending: list[tuple[Member, ...]] = []
        for group in planned(launch, only):  # all of them, before anything is trained
            notices.update(dict.fromkeys(group.dataset.notices))
            waiting = tuple(m for m in group.members if store.state(launch.member_folder(m)).status not in ENDED)
            pending += [waiting] if waiting else []
            steps |= {member.title: group.steps[member.title] for member in waiting}
        for notice in notices:
            say(console, f"notice: {notice}")
        members = expand(launch.base, launch.sweep)
        description = store.write_description(
            launch.folder, launch.short_name, launch.title, launch.sweep, members, launch.definitions
        )
        selected, missing = select(members, only), sum(map(len, pending))
        say(console, f"{counted(len(selected), 'member')}: {len(selected) - missing} done, {missing} to train")
        progress = SweepProgress(console, missing, sum(steps.values()))
        failed: dict[str, State] = {}
        try:
            for ended in (launcher or train_here)(launch, pending, progress):
                left = steps[ended.member.title] if ended.steps is None else ended.steps
                progress.end(ended.member, ended.text, left)
                if ended.failure:
                    failed[launch.member_folder(ended.member).name] = ended.failure
        finally:
            progress.close()
            rows = [_with_state(row, failed) for row in table.read_rows(launch.root, description)]
            table.write(launch.folder, rows, parquet=parquet)
    page.write(launch.folder, description, rows)
    say(console, f"results: {launch.folder}/   open {launch.folder}/report.html")
    _report_problems(launch, selected, rows, ("failed",) if searches else NOT_FINISHED, resume_command)


def _with_state(row: Row, failed: Mapping[str, State]) -> Row:
    """Return the row with the failure of its member in this process, which a full disk may keep from being saved."""
    state = failed.get(row.member)
    return row if state is None or row.finished else row._replace(status=state.status, problem=state.problem)


ENDED: tuple[store.Status, ...] = ("finished", "diverged")
"""States that training again would not change."""
NOT_FINISHED: tuple[store.Status, ...] = ("diverged", "failed", "unfinished", "missing")


def train_here(
    launch: SweepLaunch, groups: Sequence[tuple[Member, ...]], progress: SweepProgress
) -> Iterator[Ended]:  # fmt: skip
    """Train the members of the groups in this process; only the data of one group is in memory at a time."""
    dataset, config = None, None
    for group in groups:
        if dataset is None or group[0].experiment.data != config:
            config = group[0].experiment.data
            dataset = data.load(config, launch.definitions.sources)
        yield from _train_group(launch, group, dataset, progress)


def _train_group(
    launch: SweepLaunch, group: Sequence[Member], dataset: Dataset, progress: SweepProgress
) -> Iterator[Ended]:  # fmt: skip
    """Train the members of a group that are missing, record each as it ends, and yield it."""
    waiting = [member for member in group if store.state(launch.member_folder(member)).status not in ENDED]
    hooks = {member.title: progress.member(member) for member in waiting}
    runs = [(member, launch.member_launch(member), hooks[member.title]) for member in waiting]
    if members_are_stacked(jax.default_backend()) and len(waiting) > 1 and can_be_stacked(waiting[0], dataset):
        outcomes = run_stacked(runs, dataset)
    else:
        outcomes = in_turn(runs, dataset)
    for member, outcome in outcomes:
        yield end_member(launch, member, outcome, hooks[member.title].left)


def in_turn(
    runs: Sequence[tuple[Member, Launch, MemberProgress]], dataset: Dataset
) -> Iterator[tuple[Member, Finished | Exception]]:
    """Train members, one step of each in turn; yield each with its results or its error, as it ends."""
    works = ((member, run_steps(launch, dataset, QUIET, hook)) for member, launch, hook in runs)
    return take_turns(works, TOGETHER)


def end_member(launch: SweepLaunch, member: Member, outcome: Finished | Exception, steps: int) -> Ended:
    """Record how a member ended."""
    folder = launch.member_folder(member)
    if not isinstance(outcome, Exception):
        results, problems = outcome
        if not problems:
            store.forget_problem(folder)
            return Ended(member, _figures(results), steps=steps)
        outcome = PartlyDone(f"it has finished training, but {'; and '.join(problems)}")
    return failure(launch, member, outcome, steps)


def failure(launch: SweepLaunch, member: Member, error: Exception, steps: int | None = None) -> Ended:
    """Record the error that ended a member."""
    state = store.record_problem(launch.member_folder(member), error)
    return Ended(member, f"{state.status}: {state.problem}", state, steps)


def _figures(results: dict[str, Any]) -> str:
    early = ", stopped early" if results["stopped_early"] else ""
    return (
        f"test top-1 {100 * results['test']['top1']:.2f} %, best epoch {results['best_epoch']} of {results['epochs']}"
        f"{early}, {results['seconds']:.1f} s"
    )


def _report_problems(
    launch: SweepLaunch, members: Sequence[Member], rows: Sequence[Row], statuses: Sequence[store.Status],
    resume_command: str,
) -> None:  # fmt: skip
    """Raise PartlyDone if a member has one of the statuses."""
    status = {row.member: row.status for row in rows}
    named = [(member.title, status[launch.member_folder(member).name]) for member in members]
    problems = [f"{title} ({ended})" for title, ended in named if ended in statuses]
    if problems:
        raise PartlyDone(
            f"{len(problems)} of {counted(len(members), 'member')} did not finish: {listed(problems, 3)}; "
            f"{launch.folder / 'sweep.csv'} has the reasons; to try the failed ones again: {resume_command}"
        )
