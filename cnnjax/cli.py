"""Shared code of the scripts: parse a command line to a typed config, report errors, set exit codes."""

import ast
import contextlib
import functools
import io
import itertools
import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from cnnjax.errors import CnnjaxError, Interrupted, UserError, choose, cut, listed, printable
from cnnjax.system.memory import keep_memory
from cnnjax.system.signals import leave_on_signals
from cnnjax.system.stdio import flush_or_discard, hold_closed

T = TypeVar("T")
Platform = Literal["auto", "cpu", "cuda", "tpu"]
EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
"""The experiments of a checkout. An installed package has none; `experiments_folder` then looks next to the script."""

UNRECOGNIZED = "Unrecognized options: "
LONGEST_PARSE_ERROR = 300
"""Maximum characters of an error of the command line's parser, which may repeat a long value."""

registry = ConstructorRegistry()


@registry.primitive_rule
def _choices_with_near_matches(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Suggest near matches for a mistyped value of a Literal of strings."""
    choices = get_args(info.type) if get_origin(info.type) is Literal else ()
    if not choices or not all(isinstance(choice, str) for choice in choices):
        return None

    def read(arguments: list[str]) -> str:
        try:
            return choose("value", arguments[0], choices)
        except UserError as error:
            raise ValueError(str(error)) from None

    return PrimitiveConstructorSpec(
        nargs=1, metavar="{" + ",".join(choices) + "}", instance_from_str=read,
        is_instance=lambda value: value in choices, str_from_instance=lambda value: [value],
    )  # fmt: skip


def parse(
    target: Callable[..., T],
    arguments: Sequence[str],
    prog: str,
    *,
    description: str | None = None,
    default: Any = None,
) -> T:
    """Call ``target`` with a command line; raise a one-line UserError for invalid arguments."""
    defaults = {} if default is None else {"default": default}
    captured = io.StringIO()

    @functools.wraps(target)
    def prepared(*arguments: Any, **options: Any) -> Callable[[], T]:
        return functools.partial(target, *arguments, **options)  # called below, where standard error is not captured

    try:
        with contextlib.redirect_stderr(captured):
            call: Callable[[], T] = tyro.cli(
                prepared, args=list(arguments), prog=prog, description=description, registry=registry, **defaults,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands),
            )  # fmt: skip
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(f"{_one_sentence(captured.getvalue())} (see {prog} --help)") from None
    return call()


def _one_sentence(box: str) -> str:
    """Return the text of tyro's error box up to its first rule, with the nearest option if the box names one."""
    # The first line is the title; ASCII boxes, for encodings other than UTF-8, have a rule below it.
    _, *lines = box.splitlines()
    rows = ["---" if set(line) <= set("│─ ├┤╰╯-") else line.strip("│ ") for line in lines]
    parts = [list(part) for is_rule, part in itertools.groupby(rows, lambda row: row == "---") if not is_rule]
    message = " ".join(parts[0]).replace("Error parsing ", "").rstrip(".:")
    if message.startswith(UNRECOGNIZED):
        message = UNRECOGNIZED + listed(re.split(r"\s*,\s*", message.removeprefix(UNRECOGNIZED)))
    message = cut(message, LONGEST_PARSE_ERROR)
    if "Perhaps you meant:" in rows:
        message += f"; did you mean {rows[rows.index('Perhaps you meant:') + 1].split()[0]}?"
    return message


def main(script: Callable[[list[str]], Any]) -> NoReturn:
    """Run a script on the command line and exit with its exit code; print tracebacks only with --debug."""
    arguments = sys.argv[1:]
    hold_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal cannot encode
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # on import it warns users without a writable home
    keep_memory()
    leave_on_signals()
    debug = "--debug" in arguments
    try:
        _run(script, arguments)
    except CnnjaxError as error:
        _explain(error, str(error), debug)
        _leave(error.exit_code, at_once=isinstance(error, Interrupted))
    except KeyboardInterrupt as error:
        _explain(error, "interrupted", debug)
        _leave(Interrupted.exit_code, at_once=True)
    except BrokenPipeError:  # the reader of our output, such as head, has exited
        _leave(0)
    except UnicodeEncodeError as error:
        excerpt = error.object[max(error.start - 40, 0) : error.end + 40]
        text = f"{excerpt!a} cannot be written in this system's encoding, {error.encoding}"
        _explain(error, f"{text}; set PYTHONUTF8=1, or rename the file", debug)
        _leave(UserError.exit_code)
    except OSError as error:
        prefix = f"{error.filename}: " if error.filename else ""
        _explain(error, f"{prefix}{error.strerror or error}; check the path, its permissions and the space left", debug)
        _leave(UserError.exit_code)
    _leave(0)


def _run(script: Callable[[list[str]], Any], arguments: list[str]) -> None:
    """Run a script and flush its output here, so that a failed write is reported like any other error."""
    try:
        script(arguments)
    except SystemExit as stop:  # after --help
        if stop.code:
            raise
    sys.stdout.flush()


_before_leaving: list[Callable[[], None]] = []
"""What to call at the end, when the error has been printed."""


def _leave(code: int, *, at_once: bool = False) -> NoReturn:
    """Exit; after an interrupt immediately, because a compilation in another thread may crash during a normal exit."""
    flush_or_discard(sys.stdout)
    flush_or_discard(sys.stderr)
    if _before_leaving:
        for leave in _before_leaving:
            leave()
        os._exit(code)
    if at_once:
        os._exit(code)
    sys.exit(code)


def _explain(error: BaseException, sentence: str, debug: bool) -> None:
    with contextlib.suppress(OSError):  # the exit code still reports the error
        if debug:
            traceback.print_exception(error)
        text = " ".join(sentence.splitlines())
        if isinstance(error, (UserError, OSError)):  # the other errors contain the command to resume, which stays whole
            text = " ".join(map(cut, text.split(" ")))
        print("error:", printable(text), file=sys.stderr)


def use_precision(arch: Any) -> None:
    """Enable 64-bit JAX for float64 networks, unless JAX_ENABLE_X64 is set."""
    if arch.dtype == "float64" and "JAX_ENABLE_X64" not in os.environ:
        import jax

        jax.config.update("jax_enable_x64", True)


def start_jax(
    platform: Platform, deterministic: bool = False, arch: Any = None, devices: int | None = None,
    coordinator: Any = None,
) -> None:  # fmt: skip
    """Select the platform and enable the compilation cache. Call it before the first computation.

    ``arch`` is the network, if known: a float64 network enables 64-bit JAX. ``devices`` limits the number of devices.
    With a ``coordinator`` (`parallel.processes.Coordinator`), this process joins others.
    """
    from cnnjax.parallel import processes, use_devices, use_platform
    from cnnjax.system.compilation import keep_programs, use_deterministic_programs

    if deterministic:
        use_deterministic_programs()
    if coordinator is not None:
        processes.join(coordinator)
        _before_leaving.append(processes.leave)
    use_platform(platform)
    use_devices(devices)
    if arch is not None:
        use_precision(arch)
    keep_programs()


def experiments_folder() -> Path:
    """Return the folder of published experiments, in the checkout of the package or of the running script."""
    script_folder = Path(sys.argv[0]).resolve().parent.parent / "experiments"
    return next((folder for folder in (EXPERIMENTS, script_folder) if folder.is_dir()), EXPERIMENTS)


def list_experiments(folder: Path | None = None) -> dict[str, str]:
    """Return the published experiments by name, with the first docstring line of each; their code is not run."""
    experiments = {}
    folder = folder or experiments_folder()
    for path in sorted(folder.glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        experiments[path.stem] = docstring.partition("\n")[0]
    return experiments


class LoadedExperiment(NamedTuple):
    """An experiment from the command line, with its name and the definitions of its parts."""

    name: str
    experiment: Any
    definitions: Any


def load_experiment(name: str, code: Path | None = None, trust_code: bool = False) -> LoadedExperiment:
    """Return a published experiment, the experiment in a user's Python file, or that of a run.

    A Python file is executed. A run folder or its config.json is read as data, with the definitions of the file
    ``code`` or, with ``trust_code``, of the copy of that file in the run folder.
    """
    path = Path(name)
    if (path / "config.json").is_file():
        path = path / "config.json"
    if path.suffix == ".json":
        from cnnjax.runs.definitions import of_run
        from cnnjax.runs.folder import read_config

        definitions = of_run(path.parent, code, trust_code)
        return LoadedExperiment(*read_config(path, definitions), definitions)
    if code is not None or trust_code:
        raise UserError(f"--code and --trust-code apply to run folders, and {name} is not one; leave them out")
    if path.suffix == ".py" or path.parent != Path():
        if not path.is_file():
            raise UserError(f"there is no experiment file {name}; check the path")
        return _from_file(path, path.stem)
    choose("experiment", name, list_experiments())
    return _from_file(experiments_folder() / f"{name}.py", name)


def list_sweeps() -> dict[str, str]:
    """Return the published sweeps by name, with the first docstring line of each; their code is not run."""
    from cnnjax.sweep.axes import PREFIX

    titles = list_experiments()
    return {name.removeprefix(PREFIX): title for name, title in titles.items() if name.startswith(PREFIX)}


class LoadedSweep(NamedTuple):
    """A sweep from the command line: its name and title, its experiment and axes, and the definitions of its parts."""

    name: str
    title: str
    experiment: Any
    sweep: Any
    definitions: Any
    path: Path


def load_sweep(name: str) -> LoadedSweep:
    """Return a published sweep, or the sweep in a user's Python file, which is executed."""
    from cnnjax.runs.definitions import run_file
    from cnnjax.sweep.axes import PREFIX, Sweep

    path = Path(name)
    if path.suffix == ".py" or path.parent != Path():
        if not path.is_file():
            raise UserError(f"there is no experiment file {name}; check the path")
    else:
        short = choose("sweep", name.removeprefix(PREFIX), list_sweeps())
        path = experiments_folder() / f"{PREFIX}{short}.py"
    loaded = run_file(path)
    experiment = _checked_experiment(path, loaded)
    if not isinstance(loaded.sweep, Sweep):
        raise UserError(f"{path} defines no sweep; add a line such as sweep = Sweep(axes=(grid('seed', range(3)),))")
    title = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return LoadedSweep(path.stem, title, experiment, loaded.sweep, loaded.definitions, path.resolve())


def _from_file(path: Path, name: str) -> LoadedExperiment:
    from cnnjax.runs.definitions import run_file

    loaded = run_file(path)
    return LoadedExperiment(name, _checked_experiment(path, loaded), loaded.definitions)


def _checked_experiment(path: Path, loaded: Any) -> Any:
    """Return the experiment of a file; raise UserError if it has none, or one that could not be reopened."""
    from cnnjax.config import Experiment

    experiment, definitions = loaded.experiment, loaded.definitions
    if not isinstance(experiment, Experiment):
        raise UserError(f"{path} defines no experiment; add a line such as experiment = Experiment(model=...)")
    for part, classes, key in (
        (experiment.model, definitions.families, "family"), (experiment.loss, definitions.losses, "kind")
    ):  # fmt: skip
        if type(part) not in classes.values():
            raise UserError(
                f"{path}: the class of {part!r} is not defined in this file with a {key!r}, so the run could not "
                "be reopened; create the model with create(...), or define its class in this file"
            )
    return experiment


def first(arguments: Sequence[str], what: str) -> str:
    """Return the first argument, which must not be an option."""
    if arguments[0].startswith("-"):
        raise UserError(f"the first argument is {arguments[0]!r}; give the {what} first, then the options")
    return arguments[0]


def code_options(arguments: list[str]) -> tuple[Path | None, bool]:
    """Return the values of ``--code`` and ``--trust-code``, which determine how the other options are parsed."""
    _, code = take_option(arguments, "--code")
    return None if code is None else Path(code), "--trust-code" in arguments


def take_option(arguments: list[str], option: str) -> tuple[list[str], str | None]:
    """Return the arguments without ``option VALUE`` or ``option=VALUE``, and the value."""
    for index, argument in enumerate(arguments):
        if argument == option:
            if index + 1 == len(arguments):
                raise UserError(f"{option} is given without a value; add one after it")
            return arguments[:index] + arguments[index + 2 :], arguments[index + 1]
        if argument.startswith(f"{option}="):
            return arguments[:index] + arguments[index + 1 :], argument.partition("=")[2]
    return arguments, None


def option_names(arguments: Sequence[str]) -> set[str]:
    """Return the names of the given options, without their values."""
    return {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}


def resume_command(without: Sequence[str] = ()) -> str:
    """Return a shell command that repeats this process from any folder, without the given options."""
    arguments = sys.argv[1:]
    for option in without:
        arguments, _ = take_option(arguments, option)
    command = shlex.join([sys.executable, sys.argv[0], *arguments])
    try:
        return f"cd {shlex.quote(str(Path.cwd()))} && {command}"
    except OSError:  # the folder was deleted
        return command


def replace_model(experiment: Any, name: str | None) -> Any:
    """Return the experiment with another variant as its network, and the same images and classes."""
    if name is None:
        return experiment
    from cnnjax.models import variant_like

    return experiment.replace(model=variant_like(experiment.model, name))


def first_phases(experiment: Any, count: str | None) -> Any:
    """Return the experiment with its first ``count`` phases; with none it trains once, by its own optimizer."""
    if count is None:
        return experiment
    most = len(experiment.phases)
    if not count.isdecimal() or int(count) > most:
        raise UserError(
            f"--phases is {count[:20]!r} and the experiment has {most} phases; give a number from 0 to {most}"
        )
    return experiment.replace(phases=experiment.phases[: int(count)])


def start_from(experiment: Any, text: str | None) -> Any:
    """Return the experiment with ``init``.

    If the experiment has phases and its network differs from that of ``text``, the latter replaces it, but the options
    of the head stay those of the experiment.
    """
    if text is None:
        return experiment
    from cnnjax.models.heads import HEAD_FIELDS
    from cnnjax.runs.origin import absolute, differences, origin_arch

    model, arch = experiment.model, origin_arch(text)
    if experiment.phases and arch is not None and differences(model, arch):
        fields = [name for name in HEAD_FIELDS if hasattr(model, name) and hasattr(arch, name)]
        model = arch.replace(**{name: getattr(model, name) for name in fields})
    return experiment.replace(init=absolute(text), model=model)
