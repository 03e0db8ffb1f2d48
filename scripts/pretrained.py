"""List, download and add published networks.

usage: python scripts/pretrained.py list [PATTERN]     names, accuracy, size, license, and whether they are cached
       python scripts/pretrained.py get NAME           download, verify, convert and cache
       python scripts/pretrained.py put NAME FILE      the same for a file that you downloaded yourself
       python scripts/pretrained.py embed RUN NAME     write a recorded run as a network of the package

CNNJAX_PRETRAINED sets the folder of the cache, CNNJAX_MIRROR the URL of a server with the files.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from cnnjax import cli
from cnnjax.errors import UserError, choose, near_matches

if TYPE_CHECKING:
    from cnnjax.runs.predictor import Predictor


Action = Callable[[], None]
"""What a command does once its arguments are parsed; parsing captures standard error, where notices go."""


def list_networks(pattern: tyro.conf.Positional[str] = "*", debug: bool = False) -> Action:
    """List the published networks.

    Args:
        pattern: A shell pattern such as "resnet*" or "*.keras*"; it may leave out the tag after the dot.
        debug: Show the traceback of an error.
    """
    return functools.partial(show, pattern)


def get(name: tyro.conf.Positional[str], debug: bool = False) -> Action:
    """Download a published network, verify and convert it, and keep it in the cache.

    Args:
        name: Its name, such as resnet50.tv_in1k_v2.
        debug: Show the traceback of an error.
    """
    from cnnjax.hub.loading import load_pretrained

    return lambda: describe(name, load_pretrained(name))


def put(
    name: tyro.conf.Positional[str], file: Annotated[Path, tyro.conf.Positional], debug: bool = False
) -> Action:  # fmt: skip
    """Verify and convert a weight file that you downloaded yourself, and keep the network in the cache.

    Args:
        name: The network's name, such as resnet50.tv_in1k_v2.
        file: The published file; it stays where it is.
        debug: Show the traceback of an error.
    """
    from cnnjax.hub import cache
    from cnnjax.pretrained import OWN, find

    entry = find(name)
    if entry.source == OWN:
        raise UserError(f"{name} is part of the package; it needs no file")
    return lambda: describe(name, cache.put(entry, file))


def embed(run: tyro.conf.Positional[Path], name: tyro.conf.Positional[str], debug: bool = False) -> Action:
    """Write the best parameters of a recorded run as a network of the package, with its model card.

    Args:
        run: The run folder; its figures must equal those of its record.
        name: The network's name in the registry, such as lenet.fashion_mnist.
        debug: Show the traceback of an error.
    """
    from cnnjax.hub.embedding import embed

    return lambda: print(embed(run, name, cli.experiments_folder() / "records"))


def show(pattern: str) -> None:
    """Print the table of published networks."""
    from rich.console import Console
    from rich.table import Table

    from cnnjax.hub.loading import is_available
    from cnnjax.pretrained import OWN, list_pretrained, registry

    names = list_pretrained(pattern)
    if not names:
        raise UserError(f"no published network matches {pattern!r}; {near_matches(pattern, registry())}")
    table = Table()
    for heading in ("name", "top-1", "top-5", "MiB", "input", "data", "license", "cached"):
        table.add_column(heading, justify="right" if heading in ("top-1", "top-5", "MiB", "input") else "left")
    for name in names:
        entry = registry()[name]
        figures = (f"{value:.2f}" if value else "-" for value in (entry.top1, entry.top5))
        size = f"{entry.size_mib:.1f}" if entry.size_mib else "-"
        cached = "included" if entry.source == OWN else "yes" if is_available(entry) else "no"
        table.add_row(name, *figures, size, str(entry.input_size), entry.data, entry.license, cached)
    console = Console()
    if not console.is_terminal:  # one line per network, for grep
        console.width = 140
    console.print(table)


def describe(name: str, network: "Predictor") -> None:
    """Print where a network is, and how it prepares images."""
    print(f"{name}: {network.checkpoint}; {network.preprocessing.describe()}")


COMMANDS: dict[str, Callable[..., Action]] = {"list": list_networks, "get": get, "put": put, "embed": embed}


def run(arguments: list[str]) -> None:
    """Parse the command line and run the command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    command = choose("command", arguments[0], COMMANDS)
    cli.parse(COMMANDS[command], arguments[1:], f"scripts/pretrained.py {command}")()


if __name__ == "__main__":
    cli.main(run)
