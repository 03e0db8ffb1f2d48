"""Conversion of published weights to a run folder, which `scripts/evaluate.py` and `scripts/predict.py` accept."""

import secrets
import shutil
from pathlib import Path

from cnnjax import checkpoint
from cnnjax.complexity import complexity
from cnnjax.convert import load_weights, source_of
from cnnjax.convert.sources import Normalization, Source
from cnnjax.data import Preprocessing
from cnnjax.errors import UserError
from cnnjax.models.layers import Arch
from cnnjax.system.files import sha256, sync_folder


def convert_to_run(
    name: str, arch: Arch, source: str, file: Path, out: Path, classes: tuple[str, ...] = (),
    mean: tuple[float, ...] = (), std: tuple[float, ...] = (),
) -> str:  # fmt: skip
    """Convert a weight file to the run folder ``out`` and return a summary line. On an error, nothing is written.

    Args:
        name: name of the variant, for the record.
        arch: the network as published.
        source: publisher whose names the file uses.
        file: the published weights.
        out: folder to create; it must be empty if it exists.
        classes: class names, or one .txt file with a name per line; empty: the class numbers.
        mean: mean of each channel, for values in [0, 1]; empty: the publisher's.
        std: standard deviation of each channel; empty: the publisher's.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UserError(f"{out} exists and is not an empty folder; choose another name")
    names = _class_names(classes)
    if names and arch.num_classes != len(names):
        arch = arch.replace(num_classes=len(names))
    preprocessing = published_preprocessing(arch, source_of(arch, source), source, mean, std)
    variables = load_weights(arch, source, file)
    info = {
        "epoch": 0,
        "model": arch.to_dict(),
        "classes": list(names or map(str, range(arch.num_classes))),
        "preprocessing": preprocessing.to_dict(),
        "converted": {"model": name, "source": source, "file": file.name, "sha256": sha256(file)},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    temporary.mkdir()  # with the permissions of the umask
    try:
        checkpoint.save(temporary / "checkpoints", 0, {"variables": variables._asdict()}, info)
        sync_folder(temporary)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(out.parent)
    return (
        f"{out}: {name} with {complexity(arch).parameters:,} parameters from {file}, {arch.num_classes} classes; "
        f"{preprocessing.describe()}"
    )


def _class_names(given: tuple[str, ...]) -> tuple[str, ...]:
    if len(given) == 1 and given[0].endswith(".txt"):
        try:
            lines = Path(given[0]).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"--classes {given[0]} cannot be read as text: {error}") from error
        given = tuple(line.strip() for line in lines if line.strip())
    if len(set(given)) < len(given):
        duplicate = next(name for name in given if given.count(name) > 1)
        raise UserError(f"--classes names {duplicate!r} twice; class names must be unique")
    return given


def published_preprocessing(
    arch: Arch, source: Source, name: str, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
) -> Preprocessing:
    """Return the preprocessing of images, with the user's mean and standard deviation or the publisher's."""
    normalization = source.normalization
    if normalization is None:
        if not (mean and std):
            raise UserError(f"the source {name!r} does not define how images are normalized; give --mean and --std")
        normalization = Normalization(mean, std)
    geometry = source.geometry
    preprocessing = Preprocessing(
        height=arch.input_size, width=arch.input_size, mean=mean or normalization.mean, std=std or normalization.std,
        channel_order=normalization.channel_order, resize=geometry.resize,
        resize_size=geometry.resize_size(arch.input_size), interpolation=geometry.interpolation,
    )  # fmt: skip
    if preprocessing.channels != arch.channels:
        raise UserError(
            f"the network takes images with {arch.channels} channels; give as many numbers with --mean and --std"
        )
    return preprocessing
