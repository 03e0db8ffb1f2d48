"""Show a network's layers, output shapes, parameters and multiply-adds, without allocating it.

usage: python scripts/summary.py MODEL [OPTIONS]

`python scripts/summary.py MODEL --help` shows the options of that model.
"""

from typing import Annotated

import tyro

from cnnjax import cli


def summarize(arguments: list[str]) -> None:
    """Read the command line, count, print."""
    from rich.console import Console

    from cnnjax.complexity import summary_table
    from cnnjax.models import create, list_models
    from cnnjax.models.layers import Arch

    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nmodels: {', '.join(list_models())}")
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
    Console().print(summary_table(arch, name))


if __name__ == "__main__":
    cli.main(summarize)
