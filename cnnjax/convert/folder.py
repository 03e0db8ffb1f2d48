"""Conversion of published weights to a run folder, which `scripts/evaluate.py` and `scripts/predict.py` accept."""

from pathlib import Path

from cnnjax import checkpoint
from cnnjax.complexity import complexity
from cnnjax.convert import USUAL, Choice, convert_weights, source_of
from cnnjax.convert.class_list import read_class_names
from cnnjax.convert.sources import ChannelOrder, Interpolation, Normalization, Source
from cnnjax.data import Preprocessing
from cnnjax.data.imagenet_classes import wordnet_ids
from cnnjax.errors import UserError
from cnnjax.functional import Variables
from cnnjax.models import create
from cnnjax.models.layers import Arch
from cnnjax.system.files import new_folder, require_empty, sha256


def convert_to_run(
    name: str, arch: Arch, source: str, file: Path, out: Path, classes: tuple[str, ...] = (),
    mean: tuple[float, ...] = (), std: tuple[float, ...] = (), channel_order: ChannelOrder | None = None,
    interpolation: Interpolation | None = None, choice: Choice = USUAL,
) -> str:  # fmt: skip
    """Convert a weight file to the run folder ``out`` and return a summary line. On an error, nothing is written.

    Args:
        name: name of the variant, for the record.
        arch: the network as published; a whole model in a Keras file sets its head and its input size.
        source: publisher whose names the file uses.
        file: the published weights.
        out: folder to create; it must be empty if it exists.
        classes: class names, one .txt file with a name per line, one .json file with a list, or "imagenet" for its
            WordNet ids; empty: the class numbers.
        mean: mean of each channel, for values in [0, 1]; empty: the file's own or the publisher's.
        std: standard deviation of each channel; empty: the file's own or the publisher's.
        channel_order: ``"rgb"`` or ``"bgr"``; None: the publisher's.
        interpolation: resampling filter for images of other sizes; None: the publisher's.
        choice: which of the file's tensors to read.
    """
    require_empty(out)
    names = wordnet_ids() if classes == ("imagenet",) else read_class_names(classes)
    if names and arch.num_classes != len(names):
        arch = arch.replace(num_classes=len(names))
    publisher = source_of(arch, source)
    given = _normalization(publisher.normalization, source, mean, std, channel_order)
    preprocessing = published_preprocessing(arch, publisher, given, interpolation)
    arch, variables, own, notices = convert_weights(arch, source, file, choice)
    if names and arch.num_classes != len(names):
        raise UserError(f"--classes gives {len(names)} names, and the model in {file} has {arch.num_classes} classes")
    if own and (mean or std or channel_order):
        raise UserError(f"{file} scales its images itself; leave out --mean, --std and --channel-order")
    if own is None and arch.num_classes != create(name).num_classes and not (mean or std or channel_order):
        notices += (
            f"{file} does not state how its images are prepared; the preprocessing of {source}'s own networks is "
            "assumed; --mean, --std, --channel-order and --interpolation change it",
        )
    preprocessing = published_preprocessing(arch, publisher, own or given, interpolation)
    record = {"model": name, "source": source, "file": file.name, "sha256": sha256(file)}
    write_run(out, arch, variables, names or tuple(map(str, range(arch.num_classes))), preprocessing, record)
    return "".join(f"notice: {notice}\n" for notice in notices) + (
        f"{out}: {name} with {complexity(arch).parameters:,} parameters from {file}, {arch.num_classes} classes; "
        f"{preprocessing.describe()}"
    )


def write_run(
    out: Path, arch: Arch, variables: Variables, classes: tuple[str, ...], preprocessing: Preprocessing,
    record: dict[str, str],
) -> None:  # fmt: skip
    """Write converted variables as the run folder ``out``, atomically; ``record`` states where they come from."""
    info = {
        "epoch": 0,
        "model": arch.to_dict(),
        "classes": list(classes),
        "preprocessing": preprocessing.to_dict(),
        "converted": record,
    }
    with new_folder(out) as folder:
        checkpoint.save(folder / "checkpoints", 0, {"variables": variables._asdict()}, info)


def _normalization(
    known: Normalization | None, source: str, mean: tuple[float, ...], std: tuple[float, ...],
    channel_order: ChannelOrder | None,
) -> Normalization:  # fmt: skip
    """Return the user's normalization, completed by the known one: the file's own or the publisher's."""
    if known is None and not (mean and std):
        raise UserError(f"the source {source!r} does not define how images are normalized; give --mean and --std")
    known = known or Normalization(mean, std)
    return Normalization(mean or known.mean, std or known.std, channel_order or known.channel_order)


def published_preprocessing(
    arch: Arch, source: Source, normalization: Normalization, interpolation: Interpolation | None = None
) -> Preprocessing:
    """Return the preprocessing of images: the publisher's geometry, and the given normalization."""
    geometry = source.geometry
    preprocessing = Preprocessing(
        height=arch.input_size, width=arch.input_size, mean=normalization.mean, std=normalization.std,
        channel_order=normalization.channel_order, resize=geometry.resize,
        resize_size=geometry.resize_size(arch.input_size), interpolation=interpolation or geometry.interpolation,
    )  # fmt: skip
    if preprocessing.channels != arch.channels:
        raise UserError(
            f"the network takes images with {arch.channels} channels; give as many numbers with --mean and --std"
        )
    return preprocessing
