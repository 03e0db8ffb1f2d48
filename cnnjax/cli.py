"""What the scripts share: from a command line to a typed config, and from an error to a sentence and an exit code."""

import ast
import contextlib
import io
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from cnnjax.errors import CnnjaxError, Interrupted, UserError, choose, printable
from cnnjax.system.memory import keep_memory
from cnnjax.system.signals import leave_on_signals
from cnnjax.system.stdio import flush_or_discard, hold_closed

T = TypeVar("T")
Platform = Literal["auto", "cpu", "cuda", "tpu"]
EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"

registry = ConstructorRegistry()


@registry.primitive_rule
def _choices_with_near_matches(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Let a Literal of texts answer a mistyped value with near matches."""
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
    """Read a command line into ``target``; what does not fit is a UserError of one sentence."""
    defaults = {} if default is None else {"default": default}
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(
                target, args=list(arguments), prog=prog, description=description, registry=registry, **defaults,
                config=(tyro.conf.FlagCreatePairsOff,),
            )  # fmt: skip
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(f"{_one_sentence(captured.getvalue())} (see {prog} --help)") from None


def _one_sentence(box: str) -> str:
    """Return what a box of tyro's says before its first rule, and the nearest option where it names one."""
    rows = [line.strip("│╭╮╰╯─ \n") if not set(line) <= set("│─ ├┤") else "---" for line in box.splitlines()[1:-1]]
    message = " ".join(row for row in rows[: rows.index("---") if "---" in rows else None] if row)
    message = message.replace("Error parsing ", "").rstrip(".:")
    if "Perhaps you meant:" in rows:
        message += f"; did you mean {rows[rows.index('Perhaps you meant:') + 1].split()[0]}?"
    return message


def main(script: Callable[[list[str]], Any]) -> NoReturn:
    """Run a script on the command line; end with its exit code, and with a traceback only where --debug asks for it."""
    arguments = sys.argv[1:]
    hold_closed()
    keep_memory()
    leave_on_signals()
    debug = "--debug" in arguments
    try:
        _run(script, arguments)
    except CnnjaxError as error:
        _explain(error, str(error), debug)
        _leave(error.exit_code)
    except KeyboardInterrupt as error:
        _explain(error, "interrupted", debug)
        _leave(Interrupted.exit_code)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        _leave(0)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _explain(error, f"{place}{error.strerror or error}; check the path, its permissions and the space left", debug)
        _leave(UserError.exit_code)
    _leave(0)


def _run(script: Callable[[list[str]], Any], arguments: list[str]) -> None:
    """Run a script and write out what it has printed, so that what fails there is told as all else is."""
    try:
        script(arguments)
    except SystemExit as stop:  # after --help
        if stop.code:
            raise
    sys.stdout.flush()


def _leave(code: int) -> NoReturn:
    """End the process; after an interrupt at once, since a compilation in another thread may crash on the way out."""
    flush_or_discard(sys.stdout)
    flush_or_discard(sys.stderr)
    if code == Interrupted.exit_code:
        os._exit(code)
    sys.exit(code)


def _explain(error: BaseException, sentence: str, debug: bool) -> None:
    with contextlib.suppress(OSError):  # the exit code tells it, too
        if debug:
            traceback.print_exception(error)
        print("error:", printable(" ".join(sentence.splitlines())), file=sys.stderr)


def use_precision(arch: Any) -> None:
    """Let JAX compute in 64 bits where the network does, unless JAX_ENABLE_X64 says otherwise."""
    if arch.dtype == "float64" and "JAX_ENABLE_X64" not in os.environ:
        import jax

        jax.config.update("jax_enable_x64", True)


def start_jax(platform: Platform, deterministic: bool = False, arch: Any = None) -> None:
    """Compute on that platform, with the programs that earlier starts have compiled; before anything is computed.

    ``arch`` is the network where it is known by then: a float64 network computes in 64 bits.
    """
    from cnnjax.parallel import use_platform
    from cnnjax.system.compilation import keep_programs, use_deterministic_programs

    if deterministic:
        use_deterministic_programs()
    use_platform(platform)
    if arch is not None:
        use_precision(arch)
    keep_programs()


def list_experiments(folder: Path = EXPERIMENTS) -> dict[str, str]:
    """Return the published experiments with the first line of each one's docstring; their code is not run."""
    experiments = {}
    for path in sorted(folder.glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        experiments[path.stem] = docstring.partition("\n")[0]
    return experiments


class LoadedExperiment(NamedTuple):
    """What a command line names: an experiment with its name, and the tables that know what it is made of."""

    name: str
    experiment: Any
    definitions: Any


def load_experiment(name: str, code: Path | None = None, trust_code: bool = False) -> LoadedExperiment:
    """Return a published experiment, that of a Python file of one's own, or that of a run.

    A Python file is code and is run; a run's folder or its config.json is read as data, with the definitions of the
    file ``code``, or of the run's own copy of it with ``trust_code``.
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
        raise UserError(f"--code and --trust-code belong to a run's folder, and {name} is none; leave them out")
    if path.suffix == ".py" or path.parent != Path():
        if not path.is_file():
            raise UserError(f"there is no experiment file {name}; check the path")
        return _from_file(path, path.stem)
    choose("experiment", name, list_experiments())
    return _from_file(EXPERIMENTS / f"{name}.py", name)


def _from_file(path: Path, name: str) -> LoadedExperiment:
    from cnnjax.config import Experiment
    from cnnjax.runs.definitions import run_file

    experiment, definitions = run_file(path)
    if not isinstance(experiment, Experiment):
        raise UserError(f"{path} defines no experiment; it needs a line such as experiment = Experiment(model=...)")
    for part, classes, key in (
        (experiment.model, definitions.families, "family"), (experiment.loss, definitions.losses, "kind")
    ):  # fmt: skip
        if type(part) not in classes.values():
            raise UserError(
                f"{path}: {part!r} is of a class that this file does not define with a {key!r}, so the run could not "
                "be opened again; make the model with create(...), or define its class in this file"
            )
    return LoadedExperiment(name, experiment, definitions)


def first(arguments: Sequence[str], what: str) -> str:
    """Return the first argument, which must be no option."""
    if arguments[0].startswith("-"):
        raise UserError(f"the first argument is {arguments[0]!r}; give the {what} first and the options after it")
    return arguments[0]


def code_options(arguments: list[str]) -> tuple[Path | None, bool]:
    """Return the values of ``--code`` and ``--trust-code``, which decide how the other options are read."""
    _, code = take_option(arguments, "--code")
    return None if code is None else Path(code), "--trust-code" in arguments


def take_option(arguments: list[str], option: str) -> tuple[list[str], str | None]:
    """Return the arguments without ``option VALUE`` or ``option=VALUE``, and the value."""
    for index, argument in enumerate(arguments):
        if argument == option:
            if index + 1 == len(arguments):
                raise UserError(f"{option} is given without a value")
            return arguments[:index] + arguments[index + 2 :], arguments[index + 1]
        if argument.startswith(f"{option}="):
            return arguments[:index] + arguments[index + 1 :], argument.partition("=")[2]
    return arguments, None


def resume_command(without: Sequence[str] = ()) -> str:
    """Return this process's command as a shell takes it in any folder, without some options and their values."""
    arguments = sys.argv[1:]
    for option in without:
        arguments, _ = take_option(arguments, option)
    command = shlex.join([sys.executable, sys.argv[0], *arguments])
    try:
        return f"cd {shlex.quote(str(Path.cwd()))} && {command}"
    except OSError:  # the folder is gone
        return command


def replace_model(experiment: Any, name: str | None) -> Any:
    """Return the experiment with another variant as its network, made for the same images and classes."""
    if name is None:
        return experiment
    from cnnjax.models import create

    kept = {field: getattr(experiment.model, field) for field in ("num_classes", "input_size", "channels", "dtype")}
    return experiment.replace(model=create(name, **kept))
