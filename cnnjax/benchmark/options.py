"""The command line that the benchmarks of one question share, and the parts of their sections in docs/benchmarks.md."""

import shlex
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import tyro

from cnnjax import cli
from cnnjax.benchmark import machine
from cnnjax.system.versions import version

W = TypeVar("W")


def parse_work(kind: type[W], arguments: list[str], name: str, purpose: str) -> tuple[W, bool]:
    """Return what to measure, an instance of ``kind``, and whether to write docs/benchmarks.md.

    ``name`` is the subcommand and ``purpose`` the sentence that its --help begins with.
    """

    def options(
        work: Annotated[kind, tyro.conf.arg(name="")],  # type: ignore[valid-type]
        *,
        write: bool = False,
        debug: bool = False,
    ) -> tuple[Any, bool]:
        return work, write

    options.__doc__ = f"""{purpose}

        Args:
            work: What to measure.
            write: Write the table to docs/benchmarks.md.
            debug: Show the traceback of an error.
        """
    return cli.parse(options, arguments, f"scripts/benchmark.py {name}")


def command_line(
    name: str, fixed: str, arguments: Sequence[str], hidden: Sequence[str], packages: Sequence[str]
) -> str:
    """Return the paragraph with the command, the machine and the versions of packages.

    ``fixed`` is what stands for the arguments in ``hidden``, which name files of this machine.
    """
    shown = shlex.join(argument for argument in arguments if argument not in ("--write", *hidden))
    command = " ".join(part for part in (f"python scripts/benchmark.py {name}", fixed, shown) if part)
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"`{command}` on {machine.description()}; {versions}."


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose other columns are numbers."""
    lines = [f"| {' | '.join(header)} |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
