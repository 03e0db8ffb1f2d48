"""Networks, losses and data sets that an experiment can use: those of the package and those of an experiment file.

An experiment file may also define a function ``after_epoch``; see `cnnjax.runs.user_hook`.

An experiment file is code. It is executed only if the user names it or trusts its copy in a run folder; opening a run
folder does not execute it.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.config import Experiment
from cnnjax.data import SOURCES, SourceEntry
from cnnjax.errors import CnnjaxError, UserError
from cnnjax.losses import LOSSES, Loss
from cnnjax.models import FAMILIES
from cnnjax.models.layers import Arch
from cnnjax.training.state import TrainState

COPY = "experiment.py"
"""Name of the copy of the experiment file in a run folder."""


AfterEpoch = Callable[[TrainState, dict[str, Any]], object]


class Definitions(NamedTuple):
    """Networks, losses and data sets by the names used in files."""

    families: Mapping[str, type[Arch]] = FAMILIES
    losses: Mapping[str, type[Loss]] = LOSSES
    sources: Mapping[str, SourceEntry] = SOURCES
    code: bytes | None = None
    """Content of the experiment file, if it defines a network, loss, data set or ``after_epoch``."""
    after_epoch: AfterEpoch | None = None
    """Function to call with the train state and the row of metrics after each epoch; see `cnnjax.runs.user_hook`."""


BUILT_IN = Definitions()


def with_parts_of(experiment: Experiment, definitions: Definitions = BUILT_IN) -> Definitions:
    """Return the definitions, extended by the classes of the experiment's network and loss."""
    model, loss = type(experiment.model), type(experiment.loss)
    return definitions._replace(
        families={model.family: model, **definitions.families}, losses={loss.kind: loss, **definitions.losses}
    )


class LoadedFile(NamedTuple):
    """What an experiment file defines; None for a value that it lacks."""

    experiment: Any
    sweep: Any
    definitions: Definitions


def run_file(path: Path) -> LoadedFile:
    """Execute an experiment file; return its ``experiment``, its ``sweep`` and its definitions.

    It may define subclasses of `Arch` with a ``family``, subclasses of `Loss` with a ``kind``, and data sets as a
    dictionary ``SOURCES`` of `SourceEntry`, and a function ``after_epoch(state, metrics)``.

    Raises:
        UserError: the file fails to run, or it defines a name that already exists in the package, or an ``after_epoch``
            that cannot be called with two arguments.
    """
    code = path.read_bytes()
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module here
    sys.path.insert(0, str(path.resolve().parent))  # as for any script, so that it can import its neighbors
    try:
        spec.loader.exec_module(module)
    except CnnjaxError as error:
        raise UserError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        name = type(error).__name__
        raise UserError(f"{path} does not run: {name}: {error} (--debug shows the traceback)") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    families = {cls.family: cls for cls in _own(module, Arch) if "family" in vars(cls)}
    losses = {cls.kind: cls for cls in _own(module, Loss) if "kind" in vars(cls)}
    sources = getattr(module, "SOURCES", {})
    _check(path, families, losses, sources)
    after_epoch = getattr(module, "after_epoch", None)
    _check_after_epoch(path, after_epoch)
    definitions = BUILT_IN
    if families or losses or sources or after_epoch:
        definitions = Definitions(
            {**FAMILIES, **families}, {**LOSSES, **losses}, {**SOURCES, **sources}, code=code, after_epoch=after_epoch
        )  # fmt: skip
    return LoadedFile(getattr(module, "experiment", None), getattr(module, "sweep", None), definitions)


def _own(module: Any, base: type) -> list[Any]:
    """Return the subclasses of ``base`` that a module defines itself."""
    values = vars(module).values()
    return [v for v in values if isinstance(v, type) and issubclass(v, base) and v.__module__ == module.__name__]


def _check(path: Path, families: Mapping[str, Any], losses: Mapping[str, Any], sources: Any) -> None:
    if not isinstance(sources, dict) or not all(isinstance(entry, SourceEntry) for entry in sources.values()):
        raise UserError(f"{path}: SOURCES must be a dictionary of SourceEntry by name; see cnnjax.data.SourceEntry")
    for kind, own, table in (
        ("family", families, FAMILIES), ("loss", losses, LOSSES), ("data source", sources, SOURCES),
    ):  # fmt: skip
        if duplicates := sorted(own.keys() & table.keys()):
            name = duplicates[0]
            raise UserError(f"{path} defines the {kind} {name!r}, which cnnjax already has; choose another name")


def _check_after_epoch(path: Path, after_epoch: Any) -> None:
    if after_epoch is None:
        return
    try:
        inspect.signature(after_epoch).bind(None, None)
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: after_epoch must be a function of two arguments, def after_epoch(state, metrics)"
        ) from None


def of_run(run: Path, code: Path | None = None, trust_code: bool = False) -> Definitions:
    """Return the definitions of a run: from the file ``code``, or from the run's own copy if it is trusted.

    Raises:
        UserError: the file does not exist or fails to run.
    """
    if code is None and trust_code:
        code = run / COPY
        if not code.is_file():
            raise UserError(f"{run} holds no {COPY} to trust; leave out --trust-code")
    if code is None:
        return BUILT_IN
    if not code.is_file():
        raise UserError(f"there is no file {code}; check the path given with --code")
    return run_file(code).definitions


def hint(run: Path) -> str:
    """Return advice for a name that the run's own code may define, or an empty string if it has no code."""
    if not (run / COPY).is_file():
        return ""
    return f"; {run / COPY} may define it: give your copy of that file with --code, or run it with --trust-code"
