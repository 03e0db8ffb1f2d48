"""List, check, prepare and export data sets.

usage: python scripts/data.py list
       python scripts/data.py check SOURCE [--data.dir DIR] [--out DIR]     counts, damage, duplicates, leaks
       python scripts/data.py prepare tfds:NAME [--data.dir DIR]            prepare a data set with TensorFlow
       python scripts/data.py export SOURCE FOLDER [--count 10] [OPTIONS]   test images as PNG
       python scripts/data.py embed FOLDER [--data.dir DIR]                 the embedded subset of fashion_mnist
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from cnnjax import cli
from cnnjax.errors import PartlyDone, choose, counted, printable, require
from cnnjax.system.files import require_writable

DataDir = Annotated[str | None, tyro.conf.arg(name="data.dir")]


def export(
    source: tyro.conf.Positional[str],
    folder: tyro.conf.Positional[Path],
    count: int = 10,
    data_dir: DataDir = None,
    data_size: Annotated[int | None, tyro.conf.arg(name="data.size")] = None,
    data_max_value: Annotated[int, tyro.conf.arg(name="data.max-value")] = 65535,
    data_skip_damaged: Annotated[bool, tyro.conf.arg(name="data.skip-damaged")] = False,
    debug: bool = False,
) -> None:
    """Write the first test images of a data set as PNG files, named after their classes.

    Args:
        source: Name of the data set, such as image_folder:PATH or fashion_mnist.
        folder: Output folder.
        count: Number of images, 1 or more.
        data_dir: The folder (or zip) that holds the data set's files.
        data_size: image_folder and tfds:NAME: resize the short side to this many pixels and crop the center.
        data_max_value: image_folder: value that becomes white in images with more than 8 bits.
        data_skip_damaged: image_folder: skip and report damaged files instead of rejecting the folder.
        debug: Show the traceback of an error.
    """
    from cnnjax.config import Data
    from cnnjax.data import load
    from cnnjax.data.export import export_images

    require(count >= 1, "--count", count, "1 or more")
    require_writable(folder)
    config = Data(source=source, dir=data_dir, size=data_size, max_value=data_max_value, skip_damaged=data_skip_damaged)
    dataset = load(config, divide=False)
    for notice in dataset.notices:
        print("notice:", printable(notice), file=sys.stderr)
    for path in export_images(dataset, folder, count):
        print(path)


def embed(folder: tyro.conf.Positional[Path], data_dir: DataDir = None, debug: bool = False) -> None:
    """Create the balanced subset of Fashion-MNIST that is embedded in the package.

    Args:
        folder: Output folder for the four files.
        data_dir: The folder that holds the files of the full data set.
        debug: Show the traceback of an error.
    """
    from cnnjax.data.export import embed_subset

    require_writable(folder)
    print(f"{folder}: {embed_subset(folder, data_dir):,} bytes")


def check(
    source: tyro.conf.Positional[str], data_dir: DataDir = None, out: Path | None = None, debug: bool = False
) -> None:  # fmt: skip
    """Check a data set: counts, sizes, damaged files, duplicates and leaks between splits. Exit code 1: there are
    problems.

    Args:
        source: Name of the data set, such as image_folder:PATH or fashion_mnist.
        data_dir: The folder (or zip) that holds the data set's files.
        out: Output folder of data.html and examples.png; by default data-check in the working directory.
        debug: Show the traceback of an error.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cnnjax.config import Data
    from cnnjax.data.examination import examine, find_duplicates
    from cnnjax.report import data_page

    out = out or Path("data-check")
    require_writable(out)
    with Console(stderr=True).status("") as status:
        examined = examine(Data(source=source, dir=data_dir), status.update)
        duplicates = find_duplicates(examined, status.update)
    found = data_page.findings(examined, duplicates)
    console = Console()
    header, rows = data_page.counts_table(examined)
    table = Table()
    for name in header:
        table.add_column(name, justify="left" if name == "class" else "right")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
    for name, value in data_page.properties(examined):
        print(f"{name}: {value}")
    for finding in found:
        print(printable(f"{'problem' if finding.wrong else 'note'}: {finding.text}"))
    _, written = data_page.write(out, source, examined, found, duplicates)
    print(f"open {written}")
    if wrong := sum(finding.wrong for finding in found):
        raise PartlyDone(f"{source}: {counted(wrong, 'problem')} found, listed above and in {written}")


def prepare(name: tyro.conf.Positional[str], data_dir: DataDir = None, debug: bool = False) -> None:
    """Prepare a data set of tensorflow-datasets for training; this step may need TensorFlow, training does not.

    Args:
        name: tfds:NAME or tfds:NAME/CONFIG.
        data_dir: The folder of prepared data sets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        debug: Show the traceback of an error.
    """
    from cnnjax.data.sources import tfds_folder
    from cnnjax.data.tfds_prepare import prepare

    folder = Path(data_dir or tfds_folder())
    prepare(name.removeprefix("tfds:"), folder)
    print(f"prepared; to train: --data.source {name} --data.dir {folder}")


def list_sources(debug: bool = False) -> None:
    """List the data sets by name, with their classes."""
    from cnnjax.data import SOURCES

    for name, source in SOURCES.items():
        print(f"{name:<20} {', '.join(source.classes) or 'the folder names'}")
    print(f"{'tfds:NAME':<20} the label names of a tensorflow-datasets data set prepared as array_record")


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_sources, "check": check, "prepare": prepare, "export": export, "embed": embed,
}  # fmt: skip


def run(arguments: list[str]) -> None:
    """Parse the command line and run the command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    command = choose("command", arguments[0], COMMANDS)
    cli.parse(COMMANDS[command], arguments[1:], f"scripts/data.py {command}")


if __name__ == "__main__":
    cli.main(run)
