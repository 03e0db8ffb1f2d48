"""How fast photos are decoded and cropped for training: `scripts/benchmark.py stream`.

The loaders take turns, each in its own process, and no training runs at the same time. Every process reads the photos
of the folder ``train`` in random order, cuts a random resized crop and makes batches.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from pydantic import Field
from rich.console import Console

from cnnjax.benchmark import machine, page
from cnnjax.benchmark.options import command_line, markdown_table, parse_work
from cnnjax.errors import UserError
from cnnjax.schema import Schema
from cnnjax.system.cpus import cores

SMALLEST_AREA, EPOCHS = 0.08, 3
"""Smallest share of a photo that a crop covers, and epochs per turn. One warm-up epoch precedes them."""


class Loader(NamedTuple):
    """A loader to measure."""

    name: str
    arguments: tuple[str, bool]
    """Library, and whether images are also normalized to float32; PyTorch always flips them, cnnjax only if it also
    normalizes them."""


LOADERS = (
    Loader("cnnjax, uint8 on the device", ("cnnjax", False)),
    Loader("cnnjax, flipped and normalized on the device", ("cnnjax", True)),
    Loader("PyTorch DataLoader, flipped, uint8", ("torch", False)),
    Loader("PyTorch DataLoader, flipped and normalized", ("torch", True)),
)


class Work(Schema, at="--"):
    """Options: the photos, their size, and the number of turns."""

    folder: tyro.conf.Positional[Path]
    """Folder laid out as train/CLASS/FILE."""
    size: Annotated[int, Field(ge=1)] = 224
    """Height and width of the crops in pixels."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Batch size."""
    turns: Annotated[int, Field(ge=1)] = 3
    """Number of turns of each loader."""


def run(arguments: list[str]) -> None:
    """Parse the command line, measure, print.

    Raises:
        UserError: the folder has no photos in ``train``.
        PartlyDone: a loader failed; the table is not written in that case.
    """
    work, write = parse_work(
        Work, arguments, "stream", "Measure how fast photos are decoded and cropped, in cnnjax and in PyTorch."
    )
    if not (work.folder / "train").is_dir():
        raise UserError(f"{work.folder} has no folder train; give a folder laid out as train/CLASS/FILE")
    rates: dict[str, list[float]] = {loader.name: [] for loader in LOADERS}
    failed: dict[str, str] = {}
    with Console(stderr=True).status("") as status:
        for turn in range(work.turns):
            for loader in LOADERS:
                status.update(f"turn {turn + 1} of {work.turns}: {loader.name}")
                try:
                    rates[loader.name] += _measured(work, loader)
                except subprocess.CalledProcessError as error:
                    failed[loader.name] = error.stderr.strip().rsplit("\n", 1)[-1]
    rows = [_row(name, values, rates[LOADERS[-1].name]) for name, values in rates.items() if values]
    problems = [f"{name} failed: {message}" for name, message in failed.items()]
    page.finish(("", "images/s", "smallest-largest", "/ PyTorch, normalized"), rows, problems)
    if write:
        page.write_section(f"Decoding photos, {machine.processor()}", _section(work, arguments, rows))


def _measured(work: Work, loader: Loader) -> list[float]:
    """Return the images per second of each epoch, measured in a separate process."""
    job = json.dumps([*loader.arguments, str(work.folder), work.size, work.batch])
    command = [sys.executable, "-m", "cnnjax.benchmark.streaming", job]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(map(float, done.stdout.split()))


def _row(name: str, values: list[float], peer: list[float]) -> tuple[str, ...]:
    median = statistics.median(values)
    ratio = f"{median / statistics.median(peer):.2f}" if peer else ""
    return name, f"{median:,.0f}", f"{min(values):,.0f}-{max(values):,.0f}", ratio


def _section(work: Work, arguments: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    photos = sum(1 for path in (work.folder / "train").glob("*/*") if path.is_file())
    return [
        command_line("stream", "FOLDER", arguments, (str(work.folder),), ("jax", "pillow", "torch", "torchvision")),
        markdown_table(("", "images/s", "smallest-largest", "/ PyTorch, normalized"), rows),
        f"{photos:,} photos, random resized crops to {work.size} px of at least {SMALLEST_AREA} of the area, batches "
        f"of {work.batch}. Medians over {work.turns} turns of {EPOCHS} epochs; every loader runs in its own process, "
        f"and no training runs at the same time. cnnjax decodes in {cores()} threads; PyTorch's DataLoader has "
        f"{cores()} worker "
        "processes and the transforms v2.RandomResizedCrop, RandomHorizontalFlip, and for float32 ToDtype and "
        "Normalize. In cnnjax the device flips and normalizes; on a CPU, these are the same cores that decode.",
    ]


def _batches_of_cnnjax(folder: Path, size: int, batch: int, normalized: bool) -> Iterator[Iterator[int]]:
    """Yield for each epoch an iterator over the number of images in each batch."""
    import jax

    from cnnjax.config import Augmentation
    from cnnjax.data import Crops, Preprocessing, augment, epoch_order, make_loader, normalize
    from cnnjax.data.image_folder import Options, load_image_folder, square
    from cnnjax.parallel import current_placement

    photos = load_image_folder(folder, Options(square(size), stream="always")).parts["train"]
    preprocessing = Preprocessing(height=size, width=size, mean=(0.5,) * 3, std=(0.25,) * 3)
    finish = jax.jit(lambda key, images: normalize(preprocessing, augment(Augmentation(flip=True), key, images)))
    loader = make_loader(photos, batch, 1, current_placement())
    count = len(photos.labels)

    def epoch(number: int) -> Iterator[int]:
        crops = Crops(0, number, SMALLEST_AREA)
        for chunk in loader.epoch(epoch_order(0, number, count), 0, count // batch, crops):
            images = chunk.data.images
            jax.block_until_ready(finish(jax.random.key(number), images) if normalized else images)
            yield len(images)

    for number in range(EPOCHS + 1):
        yield epoch(number)


def _batches_of_torch(folder: Path, size: int, batch: int, normalized: bool) -> Iterator[Iterator[int]]:
    """Yield for each epoch an iterator over the number of images in each batch."""
    import torch

    from cnnjax.benchmark.torch_networks import import_torchvision

    import_torchvision()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(size, scale=(SMALLEST_AREA, 1), antialias=True)
    transforms: list[Any] = [crop, v2.RandomHorizontalFlip(), v2.PILToTensor()]
    if normalized:
        transforms += [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
    photos = ImageFolder(folder / "train", v2.Compose(transforms))
    loader = torch.utils.data.DataLoader(
        photos, batch, shuffle=True, num_workers=cores(), drop_last=True, persistent_workers=True
    )
    for _ in range(EPOCHS + 1):
        yield (len(images) for images, _ in loader)


def main(job: str) -> None:
    """Measure one loader and print the images per second of each epoch after the first."""
    library, normalized, folder, size, batch = json.loads(job)
    epochs = (_batches_of_torch if library == "torch" else _batches_of_cnnjax)(Path(folder), size, batch, normalized)
    for number, images in enumerate(epochs):
        started = time.perf_counter()
        count = sum(images)
        if number:
            print(count / (time.perf_counter() - started))


if __name__ == "__main__":
    main(sys.argv[1])
