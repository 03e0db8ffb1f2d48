"""What an experiment may be made of: the package's networks, losses and data sets, and those of an experiment file.

An experiment file is code. It is run where the user names it, or trusts the copy in a run folder; a run folder alone
never has its code executed.
"""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.config import Experiment
from cnnjax.data import SOURCES, SourceEntry
from cnnjax.errors import CnnjaxError, UserError
from cnnjax.losses import LOSSES, Loss
from cnnjax.models import FAMILIES
from cnnjax.models.layers import Arch

COPY = "experiment.py"
"""The name in a run folder of the file that defined parts of its experiment."""


class Definitions(NamedTuple):
    """Tables by the names that stand in files."""

    families: Mapping[str, type[Arch]] = FAMILIES
    losses: Mapping[str, type[Loss]] = LOSSES
    sources: Mapping[str, SourceEntry] = SOURCES
    code: bytes | None = None
    """The text of the experiment file, where it defines something of its own."""


BUILT_IN = Definitions()


def with_parts_of(experiment: Experiment, definitions: Definitions = BUILT_IN) -> Definitions:
    """Return the tables with the classes of an experiment's network and loss among them."""
    model, loss = type(experiment.model), type(experiment.loss)
    return definitions._replace(
        families={model.family: model, **definitions.families}, losses={loss.kind: loss, **definitions.losses}
    )


def run_file(path: Path) -> tuple[Any, Definitions]:
    """Run an experiment file; return its ``experiment`` (None if it has none) and what it defines.

    It may define subclasses of `Arch` with a ``family``, subclasses of `Loss` with a ``kind``, and data sets as a
    dictionary ``SOURCES`` of `SourceEntry`.

    Raises:
        UserError: the file does not run, or it gives a name that the package has already.
    """
    code = path.read_bytes()
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.resolve().parent))  # as for any script: what lies beside it can be imported
    try:
        spec.loader.exec_module(module)
    except CnnjaxError as error:
        raise UserError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} does not run: {type(error).__name__}: {error} (--debug shows where)") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    families = {cls.family: cls for cls in _own(module, Arch) if "family" in vars(cls)}
    losses = {cls.kind: cls for cls in _own(module, Loss) if "kind" in vars(cls)}
    sources = getattr(module, "SOURCES", {})
    _check(path, families, losses, sources)
    definitions = BUILT_IN
    if families or losses or sources:
        definitions = Definitions(
            {**FAMILIES, **families}, {**LOSSES, **losses}, {**SOURCES, **sources}, code=code
        )  # fmt: skip
    return getattr(module, "experiment", None), definitions


def _own(module: Any, base: type) -> list[Any]:
    """Return the subclasses of ``base`` that a module defines itself."""
    values = vars(module).values()
    return [v for v in values if isinstance(v, type) and issubclass(v, base) and v.__module__ == module.__name__]


def _check(path: Path, families: Mapping[str, Any], losses: Mapping[str, Any], sources: Any) -> None:
    if not isinstance(sources, dict) or not all(isinstance(entry, SourceEntry) for entry in sources.values()):
        raise UserError(f"{path}: SOURCES must be a dictionary of SourceEntry by name; see cnnjax.data.SourceEntry")
    for what, own, table in (
        ("family", families, FAMILIES), ("loss", losses, LOSSES), ("data source", sources, SOURCES),
    ):  # fmt: skip
        if taken := sorted(own.keys() & table.keys()):
            raise UserError(f"{path} defines the {what} {taken[0]!r}, which cnnjax has already; give it another name")


def of_run(run: Path, code: Path | None = None, trust_code: bool = False) -> Definitions:
    """Return the definitions for a run: those of the file ``code``, or of the run's own copy where it is trusted.

    Raises:
        UserError: there is no such file, or it does not run.
    """
    if code is None and trust_code:
        code = run / COPY
        if not code.is_file():
            raise UserError(f"{run} holds no {COPY} to trust; leave out --trust-code")
    if code is None:
        return BUILT_IN
    if not code.is_file():
        raise UserError(f"there is no file {code}; check the path given with --code")
    return run_file(code)[1]


def hint(run: Path) -> str:
    """Return what to do where a run folder names what only its own code defines; empty where it has no code."""
    if not (run / COPY).is_file():
        return ""
    return f"; {run / COPY} may define it: name your copy of that file with --code, or run it with --trust-code"
