"""Formats of untrusted files: how to write a small valid file of each, and the public function that reads it."""

import contextlib
import dataclasses
import gzip
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file

from cnnjax.checkpoint import Checkpoint, open_checkpoint
from cnnjax.config import Augmentation, EarlyStopping, Experiment, Schedule, Train
from cnnjax.convert import load_weights
from cnnjax.data import Dataset, Preprocessing, read_image
from cnnjax.data.dataset import Split
from cnnjax.data.idx import read_idx
from cnnjax.data.image_folder import load_image_folder
from cnnjax.data.tfds_source import load_tfds
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables
from cnnjax.hub import model_folder, timm_folder
from cnnjax.models import create
from cnnjax.report import value_charts
from cnnjax.runs import launch
from cnnjax.runs.folder import RunFolder, read_config
from cnnjax.runs.metrics import metrics_line
from cnnjax.runs.predictor import Predictor, describe
from cnnjax.runs.saving import read_resume_info
from cnnjax.sweep import page as sweep_page
from cnnjax.sweep import store, table
from cnnjax.sweep.sentences import sentences
from cnnjax.sweep.statistics import axes_of, cells
from cnnjax.system.files import json_bytes, read_json, sha256
from cnnjax.training import early_stopping
from tests.convert.published import (
    KERAS_V1,
    TORCH,
    tensors_of,
    write_keras,
    write_keras3_h5,
    write_legacy_h5,
    write_torch,
)
from tests.data.prepared import prepare

PREPROCESSING = Preprocessing(height=9, width=7, mean=(0.5,) * 3, std=(0.5,) * 3)
ROW = {
    "epoch": 1, "step": 9, "lr": 0.1, "train_loss": 1.5, "train_top1": 0.5, "validation_loss": 1.5,
    "validation_top1": 0.5, "seconds": 1.0, "images_per_second": 9.0,
}  # fmt: skip
FIGURES = {"loss": 1.5, "top1": 0.5, "top5": 0.9, "images": 40}
RESULTS = {
    "epochs": 1, "stopped_early": False, "best_epoch": 1, "seconds": 1.0, "images_per_second": 9.0,
    "train": FIGURES, "validation": FIGURES, "test": FIGURES,
}  # fmt: skip
SPLIT, BATCH_SIZE = Split(np.zeros((40, 28, 28, 1), np.uint8), np.zeros(40, np.int32)), 4
TIMM_CONFIG = {
    "architecture": "resnet18", "num_classes": 5, "pretrained_cfg": {
        "input_size": [3, 32, 32], "crop_pct": 0.8, "interpolation": "bicubic", "crop_mode": "center",
        "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "label_names": list("abcde"),
    },
}  # fmt: skip
WITHIN = "within-00000023"
"""Two epochs of ten steps and three steps of the third."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format."""

    make: Callable[[Path], None]
    """Write a valid file."""
    read: Callable[[Path], Any]
    """The public function that reads it."""
    name: str = "file"
    """File name, if the reader depends on it."""
    share: float = 1.0
    """Weight of this format among the inputs."""
    most_megabytes: int = 100
    """Maximum growth of memory while an input is read."""


def _pixels(shape: tuple[int, ...] = (11, 13, 3)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _picture(kind: str, mode: str = "RGB", **options: Any) -> Format:
    def make(path: Path) -> None:
        image = Image.fromarray(_pixels()).convert(mode) if mode != "I;16" else Image.new("I;16", (13, 11), 500)
        image.save(path, kind, **options)

    # A header may claim 89 million pixels of 4 bytes, which are copied several times.
    return Format(make, lambda path: read_image(str(path), PREPROCESSING), share=0.5, most_megabytes=1500)


def _bytes(content: Callable[[], bytes]) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content())


def _idx() -> bytes:
    return bytes([0, 0, 8, 3]) + np.array([20, 7, 5], ">u4").tobytes() + _pixels((20, 7, 5)).tobytes()


def _image_zip(path: Path) -> None:
    folder = path.with_name("images")
    for index, part in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (folder / part).mkdir(parents=True)
        Image.fromarray(_pixels()[::-1] // (index + 1)).save(folder / part / "0.png")
        Image.fromarray(_pixels()).save(folder / part / "1.jpg")
    shutil.move(shutil.make_archive(str(path.with_name("made")), "zip", folder), path)
    shutil.rmtree(folder)


def _prepared(name: str) -> Format:
    """Return the format of a file in a prepared tensorflow-datasets data set."""

    def make(path: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            prepare(path.parents[2])

    return Format(make, lambda path: load_tfds("columns", [path.parents[2]]), name=f"columns/1.0.0/{name}", share=0.5)


def _weights(source: str, make: Callable[[Path, dict[str, np.ndarray]], Any], share: float = 1.0) -> Format:
    arch = KERAS_V1 if source == "keras" else TORCH

    def write(path: Path) -> None:
        make(path, tensors_of(arch, source))

    return Format(write, lambda path: load_weights(arch, source, path), share=share)


def _config() -> bytes:
    experiment = Experiment(
        model=TORCH, augmentation=Augmentation(flip=True), schedule=Schedule(name="step", boundaries=("1ep", "20st"))
    )
    return json_bytes({"format": 1, "name": "tiny,seed=3", "experiment": experiment.to_dict()})


def _info() -> bytes:
    arch = create("lenet", num_classes=2)
    info = {
        "format": 1, "step": 9, "epoch": 1, "model": arch.to_dict(), "classes": ["a", "b"],
        "preprocessing": PREPROCESSING.replace(height=28, width=28, mean=(0.5,), std=(0.5,)).to_dict(),
        "data": {"name": "x", "content_hash": "0", "split_hash": "1"},
    }  # fmt: skip
    return json_bytes(info)


def _within(path: Path) -> None:
    """Write the files of a checkpoint within an epoch, without its arrays."""
    path.parent.mkdir()
    stopping = early_stopping.EarlyStoppingState(best_step=10, best_score=1.5, reference_score=1.5, stale_epochs=1)
    info = json.loads(_info()) | {
        "step": 23, "epoch": 2, "early_stopping": stopping.to_dict(), "items": {"variables": {}},
        "tally": {"loss": 9.5, "correct": 7, "images": 12}, "seconds": 0.5,
    }  # fmt: skip
    path.with_name("info.json").write_bytes(json_bytes(info))
    rows = [ROW | {"epoch": n, "step": 10 * n} for n in (1, 2)]
    path.with_name("metrics.jsonl").write_bytes(b"".join(map(metrics_line, rows)))
    path.with_name("manifest.json").touch()


def resume(path: Path) -> None:
    """Read a checkpoint with a matching manifest as a resumed run does, and serialize the result."""
    folder = path.parent
    sums = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != "manifest.json"}
    (folder / "manifest.json").write_bytes(json_bytes(sums))
    dataset = Dataset("x", SPLIT, SPLIT, SPLIT, ("a", "b"), PREPROCESSING, split_hash="1", content_hash="0")
    past = read_resume_info(
        open_checkpoint(folder), RunFolder(folder.parent), dataset, Train(epochs=5, batch_size=BATCH_SIZE)
    )
    stopping = early_stopping.update(EarlyStopping(), past.early_stopping, 30, {"loss": 1.0, "top1": 0.5})
    json_bytes([stopping.to_dict(), past.seconds, launch.speed(past.rows, BATCH_SIZE)])
    b"".join(map(metrics_line, past.rows))
    assert past.steps_within == 3


def _model_folder(path: Path) -> None:
    """Write a model folder of the hub; ``path`` is one of its files."""
    arch = create("lenet", num_classes=2, input_size=28)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape).astype(leaf.dtype), abstract_variables(arch))
    preprocessing = PREPROCESSING.replace(height=28, width=28, mean=(0.5,), std=(0.5,))
    network = Predictor(arch, variables, ("a", "b"), preprocessing, path, {})
    model_folder.write(path.with_name("written"), network, "# card", {"license": "mit"})
    for file in path.with_name("written").iterdir():
        file.rename(path.with_name(file.name))
    path.with_name("written").rmdir()


def read_folder(path: Path) -> None:
    model_folder.read(path.parent)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must hold an object, as `hub.loading.read_folder` does."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold an object")
    return value


def _record(path: Path) -> None:
    entry = {"backend": "cpu", "cpus": 2, "packages": {"jax": "1"}, "lowering": {"norm": "xla"}}
    launch._environment_notice(RunFolder(path.parent).record_environment(entry))


def _print_results(path: Path) -> None:
    launch.print_results("x", RunFolder(path.parent).read_results(), Console(file=io.StringIO()))


def _sweep() -> bytes:
    members = [
        {"id": f"lenet-000000000000000{n}", "values": {"optimizer.lr": lr, "seed": n}, "options": {"optimizer.lr": lr}}
        for n, lr in enumerate((0.01, 0.1))
    ]
    axes = {"axes": [["optimizer.lr"], ["seed"]], "drawn": [False, False]}
    return json_bytes({"format": 1, "name": "rates", "title": "Two rates.", **axes, "entries": members})


def _draw_sweep(path: Path) -> None:
    """Read the description of a sweep, and compute everything that its page shows of finished members."""
    description = store.read_description(path.parent)
    figures = {"test_top1": 0.5, "validation_top1": 0.5}
    rows = [table.Row(*entry, "finished", "", figures, (ROW,)) for entry in description.entries]
    axes = axes_of(description)
    ranked = cells(axes, rows)
    sentences(axes, rows)
    value_charts.ranked_bars("", "", sweep_page.bars_of(ranked))
    for heat in sweep_page.heats_of(axes, ranked):
        value_charts.heat_map("", heat.x_name, heat.x, heat.y_name, heat.y, heat.marks)
    for rate in sweep_page.sensitivities(axes, ranked):
        value_charts.sensitivity_chart("", rate.option, "%", rate.series)
    table.csv_bytes(rows)


FORMATS: dict[str, Format] = {
    "idx": Format(_bytes(_idx), lambda path: read_idx(path, axes=3)),
    "idx.gz": Format(_bytes(lambda: gzip.compress(_idx(), mtime=0)), lambda path: read_idx(path, 3), name="file.gz"),
    "png": _picture("PNG"),
    "png, 16 bits": _picture("PNG", "I;16"),
    "png, palette": _picture("PNG", "P", transparency=3),
    "jpeg": _picture("JPEG"),
    "jpeg, CMYK": _picture("JPEG", "CMYK"),
    "bmp": _picture("BMP"),
    "gif": _picture("GIF", "P"),
    "ppm": _picture("PPM"),
    "tiff": _picture("TIFF"),
    "tiff, LZW": _picture("TIFF", compression="tiff_lzw"),
    "webp": _picture("WEBP"),
    "image zip": Format(_image_zip, load_image_folder, most_megabytes=1500),
    "tfds features": _prepared("features.json"),
    "tfds info": _prepared("dataset_info.json"),
    "tfds classes": _prepared("label.labels.txt"),
    "tfds shard": _prepared("columns-train.array_record-00000-of-00001"),
    "pth": _weights("torchvision", write_torch, share=2),
    "pth before 1.6": _weights("torchvision", lambda path, tensors: write_torch(path, tensors, zipped=False), share=2),
    "safetensors": _weights("torchvision", lambda path, tensors: save_file(tensors, path), share=2),
    "h5": _weights("keras", write_legacy_h5, share=2),
    "weights.h5": _weights("keras", write_keras3_h5),
    "keras": _weights("keras", lambda path, tensors: write_keras(path, tensors, named=False)),
    "config.json": Format(_bytes(_config), read_config, name="config.json", share=2),
    "metrics.jsonl": Format(
        _bytes(lambda: b"".join(json.dumps(ROW | {"epoch": n}).encode() + b"\n" for n in range(1, 6))),
        lambda path: RunFolder(path.parent).read_metrics(), name="metrics.jsonl",
    ),
    "results.json": Format(
        _bytes(lambda: json_bytes(RESULTS)), _print_results, name="results.json",
    ),
    "environment.json": Format(
        _bytes(lambda: json_bytes([{"backend": "gpu", "packages": {"jax": "0"}, "lowering": {"norm": "own"}}] * 2)),
        _record, name="environment.json", share=2,
    ),
    "sweep.json": Format(_bytes(_sweep), _draw_sweep, name="sweep.json", share=2),
    "problem.json": Format(
        _bytes(lambda: json_bytes({"status": "diverged", "message": "step 3"})), lambda path: store.state(path.parent),
        name="problem.json", share=0.5,
    ),
    "resumed info": Format(_within, resume, name=f"{WITHIN}/info.json", share=3),
    "resumed metrics": Format(_within, resume, name=f"{WITHIN}/metrics.jsonl", share=2),
    "hub config": Format(_model_folder, read_folder, name=model_folder.CONFIG, share=2),
    "hub weights": Format(_model_folder, read_folder, name=model_folder.WEIGHTS, share=2),
    "timm config": Format(
        _bytes(lambda: json_bytes(TIMM_CONFIG)), lambda path: timm_folder.describe(path, read_object(path)),
        name=model_folder.CONFIG, share=2,
    ),
    "info.json": Format(
        _bytes(_info), lambda path: describe(Checkpoint(path, 9, read_json(path))), name="info.json", share=2,
    ),
}  # fmt: skip


def png_of(width: int, height: int) -> bytes:
    """Return a PNG whose header claims this size."""
    import zlib

    file = io.BytesIO()
    Image.fromarray(_pixels()).save(file, "PNG")
    content = bytearray(file.getvalue())
    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + content[24:29]
    content[12:33] = chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return bytes(content)
