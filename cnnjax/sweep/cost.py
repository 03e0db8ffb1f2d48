"""What a sweep will cost, before it is run: `scripts/sweep.py --dry-run`."""

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console

from cnnjax.complexity import complexity
from cnnjax.errors import counted
from cnnjax.runs.folder import RunFolder
from cnnjax.sweep import store
from cnnjax.sweep.members import Member
from cnnjax.sweep.running import ENDED, Planned, SweepLaunch, planned
from cnnjax.system.console import say

PASSES = 3
"""Passes through the multiply-adds of a training step: one forward, two backward."""


class GroupCost(NamedTuple):
    """The training that a group still needs, at most: early stopping may need less."""

    members: tuple[Member, ...]
    states: tuple[store.State, ...]
    steps: int
    images: int
    operations: float
    """Operations of the networks' multiply-adds, two for each."""
    rates: tuple[float, ...]
    """Operations per second of the members that have finished."""

    @property
    def missing(self) -> int:
        """Number of members to train."""
        return sum(state.status not in ENDED for state in self.states)


def costs(launch: SweepLaunch, only: Sequence[str] = ()) -> Iterator[GroupCost]:
    """Yield the cost of each group of the selected members."""
    for group in planned(launch, only):
        yield _cost(launch, group)


def _cost(launch: SweepLaunch, group: Planned) -> GroupCost:
    folders = [launch.member_folder(member) for member in group.members]
    states = tuple(map(store.state, folders))
    missing = [member for member, state in zip(group.members, states, strict=True) if state.status not in ENDED]
    per_image = 2.0 * PASSES * complexity(group.members[0].experiment.model).multiply_adds
    rates = tuple(
        per_image * float(RunFolder(folder).read_results()["images_per_second"])
        for folder, state in zip(folders, states, strict=True) if state.status == "finished"
    )  # fmt: skip
    steps = sum(group.steps[member.title] for member in missing)
    images = sum(group.steps[member.title] * member.experiment.train.batch_size for member in missing)
    return GroupCost(group.members, states, steps, images, per_image * images, rates)


def seconds(groups: Sequence[GroupCost]) -> list[float | None]:
    """Return the estimated seconds of each group: by the speed of its own finished members, or of all; else None."""
    overall = [rate for group in groups for rate in group.rates]
    return [
        0.0 if not group.operations else group.operations / statistics.median(group.rates or overall)
        if overall else None
        for group in groups
    ]  # fmt: skip


def show(launch: SweepLaunch, console: Console, only: Sequence[str] = ()) -> None:
    """Print the members, the groups and the estimated cost. Nothing is written."""
    groups = list(costs(launch, only))
    estimates = seconds(groups)
    for number, (group, estimate) in enumerate(zip(groups, estimates, strict=True), 1):
        say(console, f"group {number}: {counted(len(group.members), 'member')} with one program, {group.missing} to "
                     f"train, {counted(group.steps, 'step')}, {duration(estimate)}")  # fmt: skip
        for member, state in zip(group.members, group.states, strict=True):
            say(console, f"  {state.status:<10}  {member.title}   {launch.member_folder(member).name}")
    say(console, total(groups, estimates))


def total(groups: Sequence[GroupCost], estimates: Sequence[float | None]) -> str:
    """Return the sum over the groups as text."""
    members, missing = sum(len(group.members) for group in groups), sum(group.missing for group in groups)
    known = [estimate for estimate in estimates if estimate is not None]
    return (
        f"total: {counted(members, 'member')} in {counted(len(groups), 'group')}, {missing} to train; at most "
        f"{counted(sum(group.steps for group in groups), 'step')}, {sum(group.images for group in groups):,} images, "
        f"{sum(group.operations for group in groups):.3g} operations, "
        f"{duration(sum(known) if len(known) == len(groups) else None)}"
    )


def duration(estimate: float | None) -> str:
    """Return an estimated duration as text."""
    if estimate is None:
        return "duration unknown until a member has finished (train one with --only)"
    return f"about {estimate:,.0f} s of training" if estimate < 600 else f"about {estimate / 60:,.0f} min of training"
