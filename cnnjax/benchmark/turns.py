"""Measure a job: prepare the peers one after the other, then let them take turns running laps."""

import contextlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cnnjax.benchmark.protocol import Child, Ended
from cnnjax.benchmark.work import OURS, XLA, Facts, Job, Lap, Peer
from cnnjax.errors import UserError

LAP_SECONDS, TURN_SECONDS, LEAST_LAPS = 0.25, 2.0, 2
"""Target duration of a lap of cnnjax and of a turn of each peer, and the minimum number of laps per turn."""
INSTALL = "install it with pip install -e .[bench]"


class Row(NamedTuple):
    """A peer with its measurements, or the reason why there are none."""

    peer: Peer
    facts: Facts | None = None
    step_seconds: tuple[float, ...] = ()
    """Seconds per step, for each lap of all turns."""
    peak_bytes: int = 0
    problem: str = ""
    """Text in the table in place of figures: not installed, left out, or failed."""
    sentence: str = ""
    """Explanation of the problem."""


class Block(NamedTuple):
    """A network at one batch size: a row for each peer, cnnjax first."""

    job: Job
    rows: tuple[Row, ...]
    lap_steps: int


def measure(
    job: Job, peers: Sequence[Peer], turns: int, *, debug: bool = False,
    report: Callable[[str], None] = lambda text: None, start: Callable[..., Child] = Child,
) -> Block:  # fmt: skip
    """Measure cnnjax and ``peers``; ``report`` receives progress messages.

    Raises:
        UserError: cnnjax does not support the job, for example because the platform is missing.
    """
    rows: list[Row] = []
    children: dict[int, Child] = {}
    with contextlib.ExitStack() as ending:
        for peer in (OURS, *peers):
            ours = rows[0].facts if rows else None
            if peer == XLA and not (ours and ours.native):
                continue
            report(f"{job.model}, batch {job.batch}: preparing {peer.name}")
            row, child = _prepared(peer, job, ours, debug, start, ending)
            if child is not None:
                children[len(rows)] = child
            rows.append(row)
            if peer == OURS and row.facts:
                job = job.replace(platform=row.facts.platform)
        steps = lap_steps(rows)
        for turn in range(turns):
            for index, child in list(children.items()):
                report(f"{job.model}, batch {job.batch}: turn {turn + 1} of {turns}, {rows[index].peer.name}")
                rows[index] = _turn(rows[index], child, steps)
                if rows[index].problem:
                    del children[index]
    return Block(job, tuple(rows), steps)


def _prepared(
    peer: Peer, job: Job, ours: Facts | None, debug: bool, start: Callable[..., Child], ending: contextlib.ExitStack
) -> tuple[Row, Child | None]:
    if importlib.util.find_spec(peer.package) is None:
        return Row(peer, problem="not installed", sentence=INSTALL), None
    child = start(peer, job, debug=debug)
    ending.callback(child.close)
    try:
        facts = child.ready()
    except Ended as end:
        if peer == OURS and end.refused:
            raise UserError(str(end)) from None
        return _failed(Row(peer), end), None
    if ours and facts.parameters != ours.parameters:
        sentence = f"its {job.model} has {facts.parameters:,} parameters, not {ours.parameters:,}"
        child.close()
        return Row(peer, problem="failed", sentence=sentence), None
    return Row(peer, facts), child


def _turn(row: Row, child: Child, steps: int) -> Row:
    """Return the row extended by the laps of one turn."""
    laps: list[Lap] = []
    try:
        while len(laps) < LEAST_LAPS or sum(lap.seconds for lap in laps) < TURN_SECONDS:
            laps.append(child.lap(steps))
    except Ended as end:
        return _failed(row, end)
    return row._replace(
        step_seconds=row.step_seconds + tuple(lap.seconds / steps for lap in laps),
        peak_bytes=max(row.peak_bytes, *(lap.peak_bytes for lap in laps)),
    )


def _failed(row: Row, end: Ended) -> Row:
    if end.refused:
        return Row(row.peer, problem="left out", sentence=str(end))
    return Row(row.peer, problem="failed", sentence=f"{end} (--debug shows more)")


def lap_steps(rows: Sequence[Row]) -> int:
    """Return the steps per lap, from the first peer that is ready: cnnjax, unless it failed."""
    facts = next((row.facts for row in rows if row.facts), None)
    if facts is None:
        return 1
    wanted = max(1, round(LAP_SECONDS / facts.step_seconds))
    return -(-wanted // facts.granularity) * facts.granularity
