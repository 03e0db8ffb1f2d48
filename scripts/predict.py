"""Classify photos: print the most likely classes of each image.

usage: python scripts/predict.py RUN IMAGE_OR_FOLDER... [--top 3] [--json | --csv]
       python scripts/predict.py --pretrained NAME IMAGE_OR_FOLDER... [--top 3] [--json | --csv]
       python scripts/predict.py RUN IMAGE_OR_FOLDER... --gradcam DIR    also write heat maps of the top class

RUN is a run folder, such as runs/lenet_mini, which stores the classes and the preprocessing. NAME is a published
network (python scripts/pretrained.py list), or folder:DIR or hf:OWNER/NAME. A folder stands for all images in it. Exit
code 1: some images or folders could not be read; the others are classified.
"""

import csv
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import tyro

from cnnjax import cli
from cnnjax.errors import PartlyDone, UserError, counted, listed, printable, require

if TYPE_CHECKING:
    import numpy as np

    from cnnjax.runs.predictor import Predictor

Classes = list[tuple[str, float]]
"""Class names with their probabilities, most likely first."""

CHUNK_SIZE = 256
"""Number of images that are read and classified at a time."""


Images = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]


class Request(NamedTuple):
    """What to classify, and how to print it."""

    images: tuple[str, ...]
    top: int
    form: Literal["text", "json", "csv"]
    gradcam: Path | None
    platform: cli.Platform


def options(
    run: tyro.conf.Positional[Path],
    images: Images,
    top: int = 3,
    json: bool = False,
    csv: bool = False,
    gradcam: Path | None = None,
    parameters: Literal["auto", "ema", "raw"] = "auto",
    platform: cli.Platform = "auto",
    code: Path | None = None,
    trust_code: bool = False,
    debug: bool = False,
) -> tuple[Request, Path, Literal["auto", "ema", "raw"], Path | None, bool]:
    """Classify photos: print the most likely classes of each image.

    Args:
        run: The run folder, such as runs/lenet_mini.
        images: Image files of any common format and size, or folders of them.
        top: Number of classes to print, 1 or more.
        json: Print one JSON object per image: file, classes, probabilities.
        csv: Print CSV with one row per image and class: file, rank, class, probability.
        gradcam: Folder to create for Grad-CAM heat maps: where each photo shows its most likely class, as PNG.
        parameters: For a run with moving averages: auto and ema use these, raw the trained parameters.
        platform: Device to compute on; auto picks an accelerator if there is one.
        code: The experiment file that defines the run's network. It is executed.
        trust_code: Execute the copy of that file in the run folder; only for folders that you trust.
        debug: Show the traceback of an error.
    """
    return published_options(images, top, json, csv, gradcam, platform), run, parameters, code, trust_code


def published_options(
    images: Images,
    top: int = 3,
    json: bool = False,
    csv: bool = False,
    gradcam: Path | None = None,
    platform: cli.Platform = "auto",
    debug: bool = False,
) -> Request:
    """Classify photos with a published network: print the most likely classes of each image.

    Args:
        images: Image files of any common format and size, or folders of them.
        top: Number of classes to print, 1 or more.
        json: Print one JSON object per image: file, classes, probabilities.
        csv: Print CSV with one row per image and class: file, rank, class, probability.
        gradcam: Folder to create for Grad-CAM heat maps: where each photo shows its most likely class, as PNG.
        platform: Device to compute on; auto picks an accelerator if there is one.
        debug: Show the traceback of an error.
    """
    require(top >= 1, "--top", top, "1 or more")
    if not images:
        raise UserError("no IMAGE is given; give one or more image files or folders after the network")
    if json and csv:
        raise UserError("--json and --csv are both given; choose one")
    return Request(images, top, "json" if json else "csv" if csv else "text", gradcam, platform)


def predict(arguments: list[str]) -> None:
    """Parse the command line, predict, print."""
    rest, name = cli.take_option(arguments, "--pretrained")
    if name is not None:
        from cnnjax.hub.loading import require_name

        require_name(name)
        request = cli.parse(published_options, rest, f"scripts/predict.py --pretrained {name}")

        def load() -> "Predictor":
            from cnnjax.hub.loading import load_pretrained

            return load_pretrained(name, prepare=cli.use_precision)
    else:
        request, run, parameters, code, trust_code = cli.parse(options, arguments or ["--help"], "scripts/predict.py")

        def load() -> "Predictor":
            import cnnjax

            loaded = cnnjax.load(
                run, code=code, trust_code=trust_code, prepare=cli.use_precision, parameters=parameters
            )
            if loaded.network.averaged is not None:
                _note("notice", f"{loaded.network.origin} are used; select others with --parameters")
            return loaded.network

    classify(request, load, published=name is not None)


def classify(request: Request, load: "Callable[[], Predictor]", *, published: bool) -> None:
    """Print the classes of all images; a damaged image does not stop the others."""
    from cnnjax.runs.photos import find_photos, read_photos, require_photo

    photos, left_out, unopened = find_photos(request.images)
    if left_out:
        _note("notice", f"{counted(len(left_out), 'file')} not used (not images): {listed(left_out)}")
    for problem in unopened:
        _note("error", problem)
    if published:
        require_photo(photos)
    cli.start_jax(request.platform)
    network = load()
    show_image = _shower(request, network, published=published)
    problems: list[str] = []
    done = 0
    if request.form == "csv":
        write_row(["file", "rank", "class", "probability"])
    for start in range(0, len(photos), CHUNK_SIZE):
        read = read_photos(photos[start : start + CHUNK_SIZE], network.preprocessing)
        problems += read.problems
        for problem in read.problems if len(photos) > 1 else ():
            _note("error", problem)
        for notice in read.dark:
            _note("notice", notice)
        answers = network.top(read.images, request.top) if read.paths else []
        for number, answer in enumerate(zip(read.paths, read.images, answers, strict=True), done):
            show_image(number, *answer)
        done += len(read.paths)
    if len(problems) == len(photos):
        only = [*problems, *unopened]
        raise UserError(only[0] if len(only) == 1 else f"none of the {len(photos):,} images could be read")
    if problems:
        raise PartlyDone(f"{len(problems):,} of {len(photos):,} images could not be read: {listed(problems, 1)}")
    if unopened:
        raise PartlyDone(f"{counted(len(unopened), 'folder')} could not be opened; the other images are classified")


def _note(kind: str, text: str) -> None:
    print(f"{kind}:", printable(text), file=sys.stderr)


def _shower(request: Request, network: "Predictor", *, published: bool) -> "Callable[..., None]":
    """Return a function that shows the classes of an image, and writes its heat map if they are wanted."""
    from cnnjax.hub.class_labels import is_imagenet

    show_text = functools.partial(show_published, network) if published or is_imagenet(network) else show
    heat_maps = None
    if request.gradcam is not None:
        from cnnjax.runs.explanation import HeatMaps  # it imports matplotlib

        heat_maps = HeatMaps(request.gradcam, network)

    def show_image(number: int, path: str, image: "np.ndarray", classes: Classes) -> None:
        if request.form == "text":
            show_text(number, path, classes)
        else:
            write(path, classes, request.form)
        if heat_maps is not None and (notice := heat_maps.write(number, path, image, classes[0][0])):
            _note("notice", notice)

    return show_image


def show(number: int, path: str, classes: Classes) -> None:
    """Print the classes of an image in one line."""
    answer = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in classes)
    print(f"{path}: {printable(answer)}")


def show_published(network: "Predictor", number: int, path: str, classes: Classes) -> None:
    """Print the classes of an image as the Keras tutorials do: a line per class with its id, name and probability."""
    from cnnjax.hub.class_labels import labels

    label = dict(zip(network.classes, labels(network), strict=True))
    print(f"Image #{number}: {printable(path)}")
    for name, probability in classes:
        print(printable(" {} - {:12s} {:.2%}".format(*label[name], probability)))


def write(path: str, classes: Classes, form: str) -> None:
    """Print the classes of an image as JSON or CSV."""
    if form == "json":
        answers = [{"class": name, "probability": probability} for name, probability in classes]
        print(json.dumps({"file": path, "classes": answers}))
        return
    for rank, (name, probability) in enumerate(classes, 1):
        write_row([path, rank, name, f"{probability:.6f}"])


def write_row(row: list[object]) -> None:
    """Print a CSV row."""
    csv.writer(sys.stdout, lineterminator="\n").writerow(row)


if __name__ == "__main__":
    cli.main(predict)
