"""Classify photos: print the most likely classes of each image.

usage: python scripts/predict.py RUN IMAGE_OR_FOLDER... [--top 3] [--json | --csv]

RUN is a run folder, such as runs/lenet_mini, which stores the classes and the preprocessing. A folder stands for all
images in it. Exit code 1: some images or folders could not be read; the others are classified.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from cnnjax import cli
from cnnjax.errors import PartlyDone, UserError, counted, listed, printable, require

CHUNK_SIZE = 256
"""Number of images that are read and classified at a time."""


def options(
    run: tyro.conf.Positional[Path],
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")],
    top: int = 3,
    json: bool = False,
    csv: bool = False,
    platform: cli.Platform = "auto",
    code: Path | None = None,
    trust_code: bool = False,
    debug: bool = False,
) -> tuple[Path, tuple[str, ...], int, str, cli.Platform, Path | None, bool]:
    """Classify photos: print the most likely classes of each image.

    Args:
        run: The run folder, such as runs/lenet_mini.
        images: Image files of any common format and size, or folders of them.
        top: Number of classes to print, 1 or more.
        json: Print one JSON object per image: file, classes, probabilities.
        csv: Print CSV with one row per image and class: file, rank, class, probability.
        platform: Device to compute on; auto picks an accelerator if there is one.
        code: The experiment file that defines the run's network. It is executed.
        trust_code: Execute the copy of that file in the run folder; only for folders that you trust.
        debug: Show the traceback of an error.
    """
    require(top >= 1, "--top", top, "1 or more")
    if not images:
        raise UserError("no IMAGE is given; give one or more image files or folders after the run folder")
    if json and csv:
        raise UserError("--json and --csv are both given; choose one")
    return run, images, top, "json" if json else "csv" if csv else "text", platform, code, trust_code


def predict(arguments: list[str]) -> None:
    """Parse the command line, predict, print."""
    run, images, top, form, platform, code, trust_code = cli.parse(
        options, arguments or ["--help"], "scripts/predict.py"
    )  # fmt: skip

    from cnnjax.runs.photos import find_photos, read_photos

    photos, left_out, unopened = find_photos(images)
    if left_out:
        print(printable(f"notice: {counted(len(left_out), 'file')} not used (not images): {listed(left_out)}"),
              file=sys.stderr)  # fmt: skip
    for problem in unopened:
        print("error:", printable(problem), file=sys.stderr)
    cli.start_jax(platform)

    import cnnjax

    loaded = cnnjax.load(run, code=code, trust_code=trust_code, prepare=cli.use_precision)
    problems: list[str] = []
    if form == "csv":
        write_row(["file", "rank", "class", "probability"])
    for start in range(0, len(photos), CHUNK_SIZE):
        read = read_photos(photos[start : start + CHUNK_SIZE], loaded.network.preprocessing)
        problems += read.problems
        for problem in read.problems if len(photos) > 1 else ():
            print("error:", printable(problem), file=sys.stderr)
        if not read.paths:
            continue
        for path, classes in zip(read.paths, loaded.network.top(read.images, top), strict=True):
            show(path, classes, form)
    if len(problems) == len(photos):
        only = [*problems, *unopened]
        raise UserError(only[0] if len(only) == 1 else f"none of the {len(photos):,} images could be read")
    if problems:
        raise PartlyDone(f"{len(problems):,} of {len(photos):,} images could not be read: {listed(problems, 1)}")
    if unopened:
        raise PartlyDone(f"{counted(len(unopened), 'folder')} could not be opened; the other images are classified")


def show(path: str, classes: list[tuple[str, float]], form: str) -> None:
    """Print the classes of one image."""
    if form == "json":
        answers = [{"class": name, "probability": probability} for name, probability in classes]
        print(json.dumps({"file": path, "classes": answers}))
    elif form == "csv":
        for rank, (name, probability) in enumerate(classes, 1):
            write_row([path, rank, name, f"{probability:.6f}"])
    else:
        answer = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in classes)
        print(f"{path}: {printable(answer)}")


def write_row(row: list[object]) -> None:
    """Print a CSV row."""
    csv.writer(sys.stdout, lineterminator="\n").writerow(row)


if __name__ == "__main__":
    cli.main(predict)
