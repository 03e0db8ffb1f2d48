"""Show a network's layers, output shapes, parameters and multiply-adds, without allocating it.

usage: python scripts/summary.py MODEL [OPTIONS]
       python scripts/summary.py MODEL --diagram OUT.svg the same, and a drawing of the network
       python scripts/summary.py RUN                     the network of a run folder, and its preprocessing
       python scripts/summary.py --all [--write]         one line per model; --write writes docs/models.md

`python scripts/summary.py MODEL --help` shows the options of that model.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from cnnjax import cli
from cnnjax.errors import UserError

if TYPE_CHECKING:
    from cnnjax.models.layers import Arch

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
    if Path(name).is_dir():
        summarize_run(Path(name), arguments[1:])
        return
    variant = create(name)

    def options(
        arch: Annotated[type(variant), tyro.conf.arg(name="")] = variant,  # type: ignore[valid-type]
        *,
        diagram: Path | None = None,
        debug: bool = False,
    ) -> tuple[Arch, Path | None]:
        """Show a network's layers, output shapes, parameters and multiply-adds.

        Args:
            arch: The network's options.
            diagram: Draw the network to this file, which must end in .svg.
            debug: Show the traceback of an error.
        """
        return arch, diagram

    arch, diagram = cli.parse(options, arguments[1:], f"scripts/summary.py {name}")
    cli.use_precision(arch)
    Console().print(summary_table(arch, name))
    draw(arch, name, diagram)


def draw(arch: "Arch", title: str, path: Path | None) -> None:
    """Write the drawing of a network, if a path is given."""
    if path is not None:
        from cnnjax.diagram import write_diagram

        write_diagram(arch, title, path)
        print(f"diagram: {path}")


def summarize_run(run: Path, arguments: list[str]) -> None:
    """Print the table of the network in a run folder, its classes and its preprocessing."""
    from rich.console import Console

    from cnnjax.complexity import summary_table
    from cnnjax.errors import listed, printable
    from cnnjax.runs import predictor
    from cnnjax.runs.definitions import of_run

    code, trust_code = cli.code_options(arguments)
    diagram = cli.parse(run_options, arguments, f"scripts/summary.py {run}")
    definitions = of_run(run, code, trust_code)
    _, network = predictor.describe_best(run, definitions)
    cli.use_precision(network.arch)
    Console().print(summary_table(network.arch, run.name))
    print(printable(f"classes: {listed(network.classes)}"))
    print(f"preprocessing: {network.preprocessing.describe()}")
    draw(network.arch, run.name, diagram)


def run_options(
    *, diagram: Path | None = None, code: Path | None = None, trust_code: bool = False, debug: bool = False
) -> Path | None:
    """Show the network of a run folder and its preprocessing.

    Args:
        diagram: Draw the network to this file, which must end in .svg.
        code: The experiment file that defines the run's network. It is executed.
        trust_code: Execute the copy of that file in the run folder; only for folders that you trust.
        debug: Show the traceback of an error.
    """
    return diagram


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
