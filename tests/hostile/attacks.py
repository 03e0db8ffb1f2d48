"""Hostile files and the functions that read them, run in a process that measures its own memory.

python -m tests.hostile.attacks [NAME...]  prints one line of JSON for each: name, outcome, megabytes, seconds
"""

import contextlib
import dataclasses
import gzip
import io
import json
import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorstore
from PIL import Image

from cnnjax import checkpoint
from cnnjax.convert import load_weights
from cnnjax.data import Preprocessing, read_image
from cnnjax.data.idx import read_idx
from cnnjax.data.image_folder import load_image_folder
from cnnjax.data.tfds_files import check_chunks
from cnnjax.errors import UserError
from cnnjax.runs.folder import read_config
from cnnjax.runs.metrics import ROW, read_rows
from cnnjax.system.archives import LARGEST_DIRECTORY
from cnnjax.system.files import sha256, write_json
from tests.convert.published import KERAS_V1, TORCH, tensors_of, write_keras, write_torch
from tests.data.prepared import write_records
from tests.hostile.fuzz import peak, reset_peak

MARKER = Path("ran")
MOST_SECONDS = 30
PREPROCESSING = Preprocessing(height=9, width=7, mean=(0.5,), std=(0.5,))


def from_torch(path: Path) -> Any:
    return load_weights(TORCH, "torchvision", path)


def from_keras(path: Path) -> Any:
    return load_weights(KERAS_V1, "keras", path)


def picture(path: Path) -> Any:
    return read_image(str(path), PREPROCESSING)


def images(path: Path) -> Any:
    return read_idx(path, axes=3)


@dataclasses.dataclass(frozen=True)
class Attack:
    """A hostile file, its reader and the expected outcome."""

    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    expected: str
    """Regular expression that the error message matches; ``read`` if reading the file is harmless."""
    most_megabytes: int = 100
    name: str = "file"


class Evil:
    """Creates a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(MARKER),)


def pickled(instructions: bytes) -> Callable[[Path], Any]:
    """Return a function that writes a torch zip with this pickle."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", instructions)
            archive.writestr("archive/data/0", bytes(64))

    return make


def tensor(count: int, shape: int, stride: int) -> bytes:
    """Return the pickle of a state dict with one tensor."""
    numbers = [b"\x8a\x08" + number.to_bytes(8, "little") for number in (count, shape, stride)]
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + numbers[0] + b"tQ"
    view = storage + b"K\0" + numbers[1] + b"\x85" + numbers[2] + b"\x85\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x0c\0\0\0conv1.weightctorch._utils\n_rebuild_tensor_v2\n(" + view + b"tRs."


def old_with_marker(path: Path) -> None:
    whole = write_torch(path, tensors_of(TORCH, "torchvision"), zipped=False).read_bytes()
    path.write_bytes(whole.replace(b"\x80\x02}(X", b"\x80\x02" + pickle.dumps(Evil(), 2)[2:-1] + b"0}(X", 2))


def zip_directory(entries: int, first: bytes = b"", distinct: bool = False) -> Callable[[Path], Any]:
    """Return a function that writes a zip that lists that many members but contains only ``first``."""

    def make(path: Path) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(first.decode() or "x", b"{}")
        content = file.getvalue()
        end = content[content.rindex(b"PK\5\6") :]
        start = int.from_bytes(end[16:20], "little")
        entry = b"PK\1\2" + bytes(24) + b"\6\0" + bytes(16)
        names = (f"{number:06d}".encode() for number in range(entries))
        added = b"".join(entry + name for name in names) if distinct else (entry + b"a name") * entries
        listed = content[start : start + int.from_bytes(end[12:16], "little")] + added
        changed = end[:12] + len(listed).to_bytes(4, "little") + end[16:]
        path.write_bytes(content[:start] + listed + changed)

    return make


TOO_MANY = LARGEST_DIRECTORY // 52 + 1


def keras_of(**members: bytes) -> Callable[[Path], Any]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {"config.json": b"{}", **members}.items():
                archive.writestr(name, data)

    return make


def png(*chunks: tuple[bytes, bytes], width: int = 13, height: int = 11) -> Callable[[Path], Any]:
    """Return a function that writes a PNG with a claimed size and extra chunks after its header."""

    def make(path: Path) -> None:
        file = io.BytesIO()
        Image.new("RGB", (13, 11)).save(file, "PNG")
        content = file.getvalue()
        header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + content[24:29]
        packed = b"".join(
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
            for kind, data in ((b"IHDR", header), *chunks)
        )
        path.write_bytes(content[:8] + packed + content[33:])

    return make


def deep_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(3000):
            group = group.create_group("g")


KERNEL = {"kernel": np.arange(6, dtype=np.float32)}
CHECKPOINT = "step-00000001"


def read_checkpoint(path: Path) -> Any:
    return checkpoint.restore(checkpoint.open_checkpoint(path), "variables", KERNEL)


def checkpoint_with(**changes: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    """Return a function that writes a checkpoint with changed array data and a matching manifest."""

    def make(path: Path) -> None:
        checkpoint.save(path.parent, 1, {"variables": KERNEL}, {})
        store = tensorstore.KvStore.open(f"file://{path.resolve()}/variables/|ocdbt:").result()
        for key, change in changes.items():
            store.write(f"kernel/{key}", change(store.read(f"kernel/{key}").result().value)).result()
        write_manifest(path)

    return make


def write_manifest(path: Path) -> None:
    """Rewrite a checkpoint's manifest to match its regular files."""
    files = sorted(
        file for file in path.rglob("*") if file.is_file() and not file.is_symlink() and file.name != "manifest.json"
    )
    write_json(path / "manifest.json", {str(file.relative_to(path)): sha256(file) for file in files})


def checkpoint_where(name: str, replace: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Return a function that writes a checkpoint in which a file is replaced and not in the manifest."""

    def make(path: Path) -> None:
        checkpoint_with()(path)
        (path / name).parent.mkdir(exist_ok=True)
        if (path / name).exists():  # orbax writes no _sharding and no array_metadatas for NumPy arrays
            (path / name).rename(path.parent / "moved")
        replace(path / name)
        write_manifest(path)

    return make


def symlink_to_moved(path: Path) -> None:
    """Replace the file with a symlink to its moved copy."""
    checkpoint_folder = next(folder for folder in path.parents if folder.name == CHECKPOINT)
    path.symlink_to(checkpoint_folder.parent / "moved")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30)


def linked_checkpoint(path: Path) -> None:
    checkpoint_with()(path)
    path.rename(path.parent / "moved")
    path.symlink_to("moved")


def rows(path: Path) -> Any:
    return read_rows(path, 10)


def valid_row(epoch: int) -> bytes:
    return json.dumps({**dict.fromkeys(ROW, 0.5), "epoch": epoch}).encode() + b"\n"


def metadata(**fields: Any) -> Callable[[bytes], bytes]:
    """Return a function that changes fields of an array's metadata."""
    return lambda old: json.dumps({**json.loads(old), **fields}).encode()


def zstd_of_zeros(blocks: int) -> bytes:
    """Return a zstd stream of blocks of 128 KiB of zeros, 4 bytes each."""
    one = (2**17 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    return bytes.fromhex("28b52ffd0068") + one * blocks + (1).to_bytes(3, "little")


def text(content: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(content)


def config(model: str) -> Callable[[Path], Any]:
    return text(f'{{"format": 1, "name": "a", "experiment": {{"model": {model}}}}}')


HUGE_HEADER = (200_000_000).to_bytes(8, "little") + b'{"__metadata__":{"x":"' + b"y" * 199_999_975 + b'"}}'
NESTED_TUPLES = b"\x80\x02}K\1\x85" + b"q\0h\0\x86" * 59 + b"K\1s."
IDX = bytes([0, 0, 8, 3])
SIZES = (10**5).to_bytes(4, "big") * 3, (1024).to_bytes(4, "big") * 2 + (2).to_bytes(4, "big")

ATTACKS: dict[str, Attack] = {
    "pth: code": Attack(pickled(pickle.dumps(Evil(), 2)), from_torch, "could run code: it calls posix.mkdir"),
    "pth: code, in protocol 5": Attack(pickled(pickle.dumps(Evil(), 5)), from_torch, "calls posix.mkdir"),
    "pth: code, before 1.6": Attack(old_with_marker, from_torch, "calls posix.mkdir"),
    "pth: a bare pickle": Attack(lambda path: path.write_bytes(pickle.dumps(Evil())), from_torch, "calls posix.mkdir"),
    "pth: a key of 2^59 tuples": Attack(pickled(NESTED_TUPLES), from_torch, "a key of type tuple"),
    "pth: an array of 64 GiB": Attack(
        pickled(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x10\x85R."), from_torch, "calls builtins.bytearray"
    ),
    "pth: millions of lists": Attack(
        pickled(b"\x80\x02(" + b"]" * 8_000_000 + b"l."), from_torch, "more than 1,000,000"
    ),
    "pth: a pickle of 100 MB": Attack(
        pickled(b"\x80\x02X\0\xe1\xf5\5" + b"x" * 10**8 + b"."), from_torch, "the limit is"
    ),
    "pth: a storage of a terabyte": Attack(pickled(tensor(2**38, 16, 1)), from_torch, "does not fit this network"),
    "pth: a tensor beyond its storage": Attack(pickled(tensor(16, 2**40, 1)), from_torch, "a storage with 16 values"),
    "pth: strides beyond the storage": Attack(pickled(tensor(16, 2, 2**62)), from_torch, "a storage with 16 values"),
    "pth: strides backwards": Attack(pickled(tensor(16, 2, 2**64 - 2)), from_torch, "a tensor is malformed"),
    "pth: a zip with too many members": Attack(
        zip_directory(TOO_MANY, b"archive/data.pkl"), from_torch, "list of files exceeds 16 MiB"
    ),
    "keras: a zip with too many members": Attack(
        zip_directory(TOO_MANY, b"config.json"), from_keras, "list of files exceeds 16 MiB"
    ),
    "images: a zip with too many members": Attack(zip_directory(TOO_MANY), load_image_folder, "exceeds 16 MiB"),
    "images: a zip with as many members as are allowed": Attack(
        zip_directory(TOO_MANY - 3, distinct=True), load_image_folder, "has no folder train", most_megabytes=350
    ),
    "keras: a member compressed a thousandfold": Attack(
        keras_of(**{"model.weights.h5": bytes(2**28)}), from_keras, "has 268,435,456 bytes; the limit is"
    ),
    "keras: a path outside the zip": Attack(keras_of(**{"../x": b""}), from_keras, "a path outside the zip"),
    "h5: deeply nested groups": Attack(deep_h5, from_keras, "damaged or in another format"),
    "safetensors: a header of 200 MB": Attack(
        lambda path: path.write_bytes(HUGE_HEADER), from_torch, "is not a weight file"
    ),
    "idx: a terabyte": Attack(lambda path: path.write_bytes(IDX + SIZES[0]), images, "are allowed"),
    "idx.gz: a terabyte": Attack(
        lambda path: path.write_bytes(gzip.compress(IDX + SIZES[0] + bytes(10**8))), images, "are allowed", name="a.gz"
    ),
    "idx.gz: a gigabyte that claims to be 2 MiB": Attack(
        lambda path: path.write_bytes(gzip.compress(IDX + SIZES[1] + bytes(2**30), 1)), images, "but holds more",
        name="a.gz",
    ),
    "array_record: 256 MB in 128 KB": Attack(
        lambda path: write_records(path, [bytes(2**28)]), check_chunks, "unpack to 268,435,456 bytes"
    ),
    "png: 50,000 x 50,000 pixels": Attack(png(width=50_000, height=50_000), picture, "exceeds limit"),
    "png: 9,000 x 9,000 pixels without data": Attack(
        png(width=9_000, height=9_000), picture, "cannot be read as an image", most_megabytes=1500
    ),
    "png: a text of 100 MB": Attack(
        png((b"zTXt", b"x\0\0" + zlib.compress(bytes(10**8)))), picture, "read|cannot be read as an image"
    ),
    "png: a color profile of 100 MB": Attack(
        png((b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8)))), picture, "read|cannot be read as an image"
    ),
    "ppm: 50,000 x 50,000 pixels": Attack(
        lambda path: path.write_bytes(b"P6 50000 50000 255\n123"), picture, "exceeds limit"
    ),
    "eps: a program in PostScript": Attack(
        lambda path: Image.new("RGB", (9, 9)).save(path, "EPS"), picture, r"as an image \(not an image\)"
    ),
    "image: a pipe": Attack(lambda path: os.mkfifo(path), picture, "is not a regular file"),
    "weights: a pipe": Attack(lambda path: os.mkfifo(path), from_torch, "is not a regular file"),
    "weights: a device": Attack(lambda path: path.symlink_to("/dev/zero"), from_torch, "is not a regular file"),
    "idx: a pipe": Attack(lambda path: os.mkfifo(path), images, "is not a regular file"),
    "image: 65 MiB": Attack(lambda path: path.write_bytes(bytes(65 * 2**20)), picture, "are allowed"),
    "config: 100,000 nested lists": Attack(text("[" * 100_000), read_config, "cannot be read as JSON"),
    "config: a model of nested lists": Attack(config("[" * 900 + "]" * 900), read_config, "nested more than 50 deep"),
    "config: a number of 100,000 digits": Attack(config("1" * 100_000), read_config, "cannot be read as JSON"),
    "config: a number of 4,000 digits": Attack(config("1" * 4000), read_config, "a number is NaN, or larger"),
    "config: a seed that is NaN": Attack(
        text('{"format": 1, "name": "a", "experiment": {"model": {"family": "lenet"}, "seed": NaN}}'), read_config,
        "a number is NaN, or larger",
    ),
    "config: a family of 10 MB": Attack(
        config('{"family": "%s"}' % ("x" * 10**7)), read_config, "unknown model family"
    ),
    "checkpoint: a valid one": Attack(checkpoint_with(), read_checkpoint, "read", name=CHECKPOINT),
    "checkpoint: a chunk of 4 GiB in 128 KiB": Attack(
        checkpoint_with(**{".zarray": metadata(chunks=[2**30]), "0": lambda old: zstd_of_zeros(2**15)}),
        read_checkpoint,
        r"kernel is float32\[6\] in chunks of \[1073741824\]; it must be float32\[6\] in", name=CHECKPOINT,
    ),
    "checkpoint: a chunk that holds more than it claims": Attack(
        checkpoint_with(**{"0": lambda old: zstd_of_zeros(2**15)}), read_checkpoint, "cannot be read: variables: ",
        name=CHECKPOINT,
    ),
    **{
        f"checkpoint: {what} for {name}": Attack(
            checkpoint_where(f"variables/{name}", replace), read_checkpoint,
            f"is damaged: .*{name} is neither a regular file nor a folder", name=CHECKPOINT,
        )
        for name in ("_METADATA", "manifest.ocdbt", "_sharding", "array_metadatas/process_0", "d")
        for what, replace in (("a pipe", os.mkfifo), ("a symlink", symlink_to_moved), ("a socket", bound_socket))
    },
    "checkpoint: a pipe for info.json": Attack(
        checkpoint_where("info.json", os.mkfifo), read_checkpoint, "is damaged: .*info.json is neither", name=CHECKPOINT
    ),
    "checkpoint: a pipe for format.json": Attack(
        checkpoint_where("format.json", os.mkfifo), read_checkpoint, "format.json is not a regular", name=CHECKPOINT
    ),
    "checkpoint: a symlink to a device": Attack(
        checkpoint_where("variables/_METADATA", lambda path: path.symlink_to("/dev/zero")), read_checkpoint,
        "_METADATA is neither a regular file nor a folder", name=CHECKPOINT,
    ),
    "checkpoint: a symlink to a checkpoint": Attack(
        linked_checkpoint, read_checkpoint, "is damaged: .* is a symlink", name=CHECKPOINT
    ),
    **{
        f"checkpoint: a gigabyte of {name}": Attack(
            checkpoint_where(f"variables/{name}", sparse),
            read_checkpoint,
            f"{name} is 1024 MiB; the limit is 16",
            name=CHECKPOINT,
        )
        for name in ("_METADATA", "manifest.ocdbt", "array_metadatas/process_0")
    },
    "metrics: 96 MiB of short lines": Attack(lambda path: path.write_bytes(b"11\n" * 2**25), rows, "read", 20),
    "metrics: a line of a gigabyte": Attack(sparse, rows, "read", 20),
    "metrics: 100 MB of valid lines": Attack(
        lambda path: path.write_bytes(b"".join(map(valid_row, range(1, 500_000)))), rows, "read", 20
    ),
    "metrics: a pipe": Attack(os.mkfifo, rows, "is not a regular file"),
    "config: 100 MB": Attack(config('{"family": "%s"}' % ("x" * 10**8)), read_config, "MiB"),
}  # fmt: skip


def measure(attack: Attack, folder: Path) -> tuple[str, int, float]:
    """Create the file and read it; return the outcome, the growth of memory in MB and the time in seconds."""
    path = folder / attack.name
    attack.make(path)
    before, memory, start = sorted(folder.rglob("*")), reset_peak(), time.perf_counter()
    signal.alarm(MOST_SECONDS)
    try:
        attack.read(path)
        outcome = "read"
    except UserError as error:
        outcome = str(error)[:10_000]
    except BaseException as error:
        outcome = f"FOUND {type(error).__name__}: {error}"
    signal.alarm(0)
    seconds = time.perf_counter() - start
    if MARKER.exists():
        outcome = f"FOUND: it ran code; {outcome}"
    if sorted(folder.rglob("*")) != before:
        outcome = f"FOUND: it wrote a file; {outcome}"
    return outcome, (peak() - memory) // 1024, seconds


def too_late(*_: Any) -> None:
    raise TimeoutError(f"it took more than {MOST_SECONDS} seconds")


def main(names: list[str]) -> None:
    """Measure the named attacks, or all. Valid files are read first, so that imports are not measured."""
    signal.signal(signal.SIGALRM, too_late)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        from_torch(write_torch(Path("a"), tensors_of(TORCH, "torchvision")))
        from_keras(write_keras(Path("a.keras"), tensors_of(KERAS_V1, "keras")))
        Image.fromarray(np.zeros((9, 9), np.uint8)).save("a.png")
        picture(Path("a.png"))
        checkpoint_with()(Path(CHECKPOINT))
        read_checkpoint(Path(CHECKPOINT))
        for number, name in enumerate(names or ATTACKS):
            folder = Path(place) / str(number)
            folder.mkdir()
            print(json.dumps([name, *measure(ATTACKS[name], folder)]), flush=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
