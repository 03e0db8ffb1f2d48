"""Show a network's layers, output shapes, parameters and multiply-adds, without allocating it.

usage: python scripts/summary.py MODEL [OPTIONS]

`python scripts/summary.py MODEL --help` shows the options of that model.
"""

from cnnjax import cli


def summarize(arguments: list[str]) -> None:
    """Read the command line, count, print."""
    from rich.console import Console

    from cnnjax.complexity import summary_table
    from cnnjax.models import create, list_models

    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nmodels: {', '.join(list_models())}")
        return
    name = arguments[0]
    variant = create(name)
    arch = cli.parse(type(variant), arguments[1:], f"scripts/summary.py {name}", default=variant)
    Console().print(summary_table(arch, name))


if __name__ == "__main__":
    cli.main(summarize)
