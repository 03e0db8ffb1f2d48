"""From a file of published weights to a run's folder, which `scripts/evaluate.py` and `scripts/predict.py` accept."""

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
    """Convert, make the folder ``out``, and return a line that says what was done; refused, nothing is written.

    Args:
        name: the variant's name, for the record.
        arch: the network as it was published.
        source: whose names the file uses.
        file: the published weights.
        out: the folder to make; it must not be there, or be empty.
        classes: the classes' names, or one .txt file that holds them, a line each; empty: the classes' numbers.
        mean: by channel, of values in [0, 1]; empty: the publisher's.
        std: the same of the standard deviation.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UserError(f"{out} exists and is not an empty folder; choose another name")
    names = _class_names(classes)
    if names and arch.num_classes != len(names):
        arch = arch.replace(num_classes=len(names))
    preprocessing = _preprocessing(arch, source_of(arch, source), source, mean, std)
    variables = load_weights(arch, source, file)
    info = {
        "epoch": 0,
        "model": arch.to_dict(),
        "classes": list(names or map(str, range(arch.num_classes))),
        "preprocessing": preprocessing.to_dict(),
        "converted": {"model": name, "source": source, "file": file.name, "sha256": sha256(file)},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    aside.mkdir()  # with the permissions that the umask leaves
    try:
        checkpoint.save(aside / "checkpoints", 0, {"variables": variables._asdict()}, info)
        sync_folder(aside)
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_folder(out.parent)
    return (
        f"{out}: {name} with {complexity(arch).parameters:,} parameters of {file}, {arch.num_classes} classes; "
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
        twice = next(name for name in given if given.count(name) > 1)
        raise UserError(f"--classes names {twice!r} twice; class names must be unique")
    return given


def _preprocessing(
    arch: Arch, source: Source, name: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> Preprocessing:
    """Return how images are prepared: as the user says, else as the publisher does."""
    normalization = source.normalization
    if normalization is None:
        if not (mean and std):
            raise UserError(
                f"weights of the source {name!r} do not say how images are normalised; give --mean and --std"
            )
        normalization = Normalization(mean, std)
    geometry = source.geometry
    preprocessing = Preprocessing(
        height=arch.input_size, width=arch.input_size, mean=mean or normalization.mean, std=std or normalization.std,
        channel_order=normalization.channel_order, resize=geometry.resize,
        resize_size=geometry.resize_size(arch.input_size), interpolation=geometry.interpolation,
    )  # fmt: skip
    if preprocessing.channels != arch.channels:
        raise UserError(f"the network takes {arch.channels} channels; give that many numbers with --mean and --std")
    return preprocessing
