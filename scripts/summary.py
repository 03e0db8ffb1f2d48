"""Show a network's layers, output shapes, parameters and multiply-adds, without allocating it.

usage: python scripts/summary.py MODEL [OPTIONS]
       python scripts/summary.py --all [--write]         one line per model; --write writes docs/models.md

`python scripts/summary.py MODEL --help` shows the options of that model.
"""

from pathlib import Path
from typing import Annotated

import tyro

from cnnjax import cli
from cnnjax.errors import UserError

RECORD = Path(__file__).resolve().parent.parent / "docs" / "models.md"


def summarize(arguments: list[str]) -> None:
    """Parse the command line, count, print."""
    from rich.console import Console

    from cnnjax.complexity import summary_table
    from cnnjax.models import create, list_models
    from cnnjax.models.layers import Arch

    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nmodels: {', '.join(list_models())}")
        return
    if arguments[0] == "--all":
        summarize_all(arguments[1:])
        return
    name = cli.first(arguments, "model")
    variant = create(name)

    def options(
        arch: Annotated[type(variant), tyro.conf.arg(name="")] = variant,  # type: ignore[valid-type]
        *,
        debug: bool = False,
    ) -> Arch:
        """Show a network's layers, output shapes, parameters and multiply-adds.

        Args:
            arch: The network's options.
            debug: Show the traceback of an error.
        """
        return arch

    arch = cli.parse(options, arguments[1:], f"scripts/summary.py {name}")
    cli.use_precision(arch)
    Console().print(summary_table(arch, name))


def summarize_all(arguments: list[str]) -> None:
    """Print or write the table of all models."""
    from cnnjax.report import model_table

    if arguments not in ([], ["--write"]):
        raise UserError(f"--all is given with {' '.join(arguments)}; it accepts only --write")
    page = model_table.page()
    if arguments:
        RECORD.write_text(page, encoding="utf-8")
    print(RECORD if arguments else page)


if __name__ == "__main__":
    cli.main(summarize)
