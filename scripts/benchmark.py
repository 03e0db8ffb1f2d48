"""Time the training of a network here, in PyTorch and in Keras on JAX, each in a process of its own.

    python scripts/benchmark.py MODEL [OPTIONS]

The peers come with `pip install -e .[bench]`; the table says which are not installed.
`python scripts/benchmark.py MODEL --help` shows the options.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from cnnjax import cli

RECORD = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def benchmark(arguments: list[str]) -> None:
    """Read the command line, time, print; exit code 1 where a peer failed."""
    from rich.console import Console

    from cnnjax import benchmark
    from cnnjax.benchmark import PARAMETERS, Work

    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nmodels: {', '.join(PARAMETERS)}")
        return

    def options(
        work: Annotated[Work, tyro.conf.arg(name="")], *, write: bool = False, debug: bool = False
    ) -> Any:  # fmt: skip
        """Time the training of a network here and in other libraries.

        Args:
            work: What every peer does.
            write: Write the table to docs/benchmarks.md, too.
            debug: Show what the peers' processes say, and the traceback of an error.
        """
        return work, write, debug

    work, write, debug = cli.parse(options, arguments, "scripts/benchmark.py")
    console = Console()
    rows = benchmark.run(work, console, debug=debug)
    benchmark.show(work, rows, console)
    if write:
        benchmark.write(work, rows, RECORD)
    if any(row.problem == "failed" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    cli.main(benchmark)
