"""The store of a sweep: one run folder for each member, and a folder for each sweep.

    ROOT/members/ID/         a run folder, as `scripts/train.py` writes it; ID is a hash of the experiment, so sweeps
                             with common members share them
    ROOT/members/ID/problem.json   why the member diverged or failed
    ROOT/NAME/sweep.json     the axes, and the ID and the options of each member
    ROOT/NAME/sweep.csv report.html *.png *.svg     see `cnnjax.sweep.table` and `cnnjax.sweep.page`

There is no other coordination: the state of a sweep is the state of its members' folders.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cnnjax.config import Experiment, flatten
from cnnjax.errors import CnnjaxError, Diverged, UserError, quoted
from cnnjax.runs.definitions import BUILT_IN, Definitions
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.naming import LOCATIONS
from cnnjax.sweep.axes import Sweep, is_plain
from cnnjax.sweep.members import Member
from cnnjax.system import formats
from cnnjax.system.files import make_folder, read_json, write_json

FORMAT = 1
MEMBERS, DESCRIPTION, PROBLEM = "members", "sweep.json", "problem.json"
LONGEST_PROBLEM = 1000
Status = Literal["finished", "diverged", "failed", "unfinished", "missing"]
"""State of a member: failed and unfinished ones are trained by the next start, diverged ones would diverge again."""


class Entry(NamedTuple):
    """A member as its sweep's `DESCRIPTION` lists it."""

    id: str
    values: dict[str, Any]
    """The values of its axes by option."""
    options: dict[str, Any]
    """All options of its experiment."""


class Description(NamedTuple):
    """Contents of `DESCRIPTION`."""

    name: str
    title: str
    axes: tuple[tuple[str, ...], ...]
    """Options of each axis."""
    drawn: tuple[bool, ...]
    """Whether each axis was drawn at random."""
    entries: tuple[Entry, ...]


class State(NamedTuple):
    """What a member's folder holds: its status and, if it diverged or failed, why."""

    status: Status
    problem: str = ""


def identity(experiment: Experiment, definitions: Definitions = BUILT_IN) -> str:
    """Return the ID of an experiment: its family and a hash of every option except locations."""
    digest = hashlib.sha256(json.dumps(_options(experiment), sort_keys=True).encode())
    digest.update(definitions.code or b"")
    return f"{re.sub(r'[^a-z0-9_]', '_', experiment.model.family)}-{digest.hexdigest()[:16]}"


def member_folder(root: Path, id: str) -> Path:
    return root / MEMBERS / id


def state(folder: Path) -> State:
    """Return the state of a member's folder."""
    if RunFolder(folder).finished:
        return State("finished")
    if (folder / PROBLEM).exists():
        problem = read_json(folder / PROBLEM)
        status, message = (problem.get("status"), problem.get("message")) if isinstance(problem, dict) else (None, None)
        if status not in ("diverged", "failed") or not isinstance(message, str):
            raise UserError(f"{folder / PROBLEM} is damaged; delete it, then run the same command again")
        return State(status, message)
    return State("unfinished" if (folder / "config.json").exists() else "missing")


def record_problem(folder: Path, error: Exception) -> State:
    """Write why a member ended without results, unless another process works in its folder; return its state."""
    message = str(error) if isinstance(error, CnnjaxError) else f"{type(error).__name__}: {error}"
    recorded = State("diverged" if isinstance(error, Diverged) else "failed", message[:LONGEST_PROBLEM])
    with contextlib.suppress(OSError, UserError):
        if (folder / "config.json").exists():
            with RunFolder(folder).locked():
                write_json(folder / PROBLEM, {"status": recorded.status, "message": recorded.problem})
    return recorded


def forget_problem(folder: Path) -> None:
    """Delete the record of an earlier problem of a member that has finished now."""
    (folder / PROBLEM).unlink(missing_ok=True)


def write_description(
    folder: Path, name: str, title: str, sweep: Sweep, members: Sequence[Member], definitions: Definitions
) -> Description:  # fmt: skip
    """Write the folder's `DESCRIPTION` and return its contents."""
    entries = tuple(
        Entry(identity(member.experiment, definitions), member.values, _options(member.experiment))
        for member in members
    )
    drawn: dict[tuple[str, ...], bool] = {}  # axes of the same options are one axis in the table
    for axis in sweep.axes:
        drawn[axis.options] = axis.drawn or drawn.get(axis.options, False)
    description = Description(name, title, tuple(drawn), tuple(drawn.values()), entries)
    make_folder(folder)
    write_json(folder / DESCRIPTION, {
        **formats.written(FORMAT), **description._asdict(), "entries": [entry._asdict() for entry in entries],
    })  # fmt: skip
    return description


def _options(experiment: Experiment) -> dict[str, Any]:
    return {name: value for name, value in flatten(experiment.to_dict()).items() if name not in LOCATIONS}


def read_description(folder: Path) -> Description:
    """Read the folder's `DESCRIPTION`, as untrusted data.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / DESCRIPTION
    data = read_json(path)
    formats.check(str(path), data, FORMAT)
    damaged = UserError(f"{path} is damaged; run scripts/sweep.py again to write it")
    try:
        axes = tuple(_texts(options) for options in data["axes"])
        entries = tuple(_entry(entry) for entry in data["entries"])
        description = Description(str(data["name"]), str(data["title"]), axes, tuple(map(bool, data["drawn"])), entries)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise damaged from None
    if len(description.drawn) != len(axes) or not axes or not entries:
        raise damaged
    return description


def _entry(data: Mapping[str, Any]) -> Entry:
    if not re.fullmatch(r"[a-z0-9_]+-[0-9a-f]{16}", data["id"]):
        raise ValueError(f"the ID is {quoted(data['id'])}")
    return Entry(data["id"], _plain(data["values"]), _plain(data["options"]))


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with their values as an axis holds them; raise TypeError for any other value."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    if not all(map(is_plain, values.values())):
        raise TypeError
    return values


def _texts(options: Any) -> tuple[str, ...]:
    if not isinstance(options, list) or not options or not all(isinstance(option, str) for option in options):
        raise TypeError
    return tuple(options)
