"""CIFAR-10 and CIFAR-100 as published (Krizhevsky 2009): the binary files and the Python pickles, packed or not.

A pickle can run code when it is loaded. `_Reader` builds only the arrays and lists of numbers and text that these files
hold, and refuses everything else.
"""

import functools
import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.data.dataset import Split
from cnnjax.errors import UserError
from cnnjax.system.files import open_plain, read_bytes

SIDE, CHANNELS = 32, 3
PIXELS = SIDE * SIDE * CHANNELS
MOST_MIB = 256
"""Maximum size of a file; CIFAR-100's training images take 148 MiB."""


class Form(NamedTuple):
    """One of the published forms of a data set."""

    folder: str
    archive: str
    parts: Mapping[str, tuple[str, ...]]
    """Files of each split."""
    label_bytes: int = 0
    """Binary form: bytes before the pixels of an image; the last one is the label. 0 for pickles."""
    labels: bytes = b""
    """Pickles: key of the labels."""
    md5: Mapping[str, str] = {}
    """Published checksums of the files, where they are known."""


CIFAR10 = (
    Form(
        "cifar-10-batches-bin", "cifar-10-binary.tar.gz",
        {"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)}, label_bytes=1,
    ),
    Form(
        "cifar-10-batches-py", "cifar-10-python.tar.gz",
        {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)}, labels=b"labels",
        md5={
            "data_batch_1": "c99cafc152244af753f735de768cd75f", "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751", "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb", "test_batch": "40351d587109b95175f43aff81a1287e",
        },
    ),
)  # fmt: skip
CIFAR100 = (
    Form(
        "cifar-100-binary", "cifar-100-binary.tar.gz", {"train": ("train.bin",), "test": ("test.bin",)}, label_bytes=2
    ),
    Form(
        "cifar-100-python", "cifar-100-python.tar.gz", {"train": ("train",), "test": ("test",)}, labels=b"fine_labels",
        md5={"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    ),
)  # fmt: skip


class Published(NamedTuple):
    """The images of a data set, and a sentence about files that are not the published ones."""

    parts: dict[str, Split]
    notices: tuple[str, ...]


def load_published(forms: tuple[Form, ...], place: Path) -> Published | None:
    """Load the published files from a folder, its parent folder or a tar.gz; return None if there are none.

    Raises:
        UserError: a file is missing or damaged, or a pickle holds anything other than images and labels.
    """
    for form in forms:
        for folder in (place / form.folder, place):
            if (folder / form.parts["train"][0]).is_file():
                return _load(form, folder, functools.partial(_read_file, folder))
        for archive in (place / form.archive, place):
            if archive.name == form.archive and archive.is_file():
                members = _read_archive(archive, {name for names in form.parts.values() for name in names})
                return _load(form, archive, functools.partial(_member, archive, members))
    return None


def _read_file(folder: Path, name: str) -> bytes:
    try:
        return read_bytes(folder / name, MOST_MIB)
    except FileNotFoundError:
        raise UserError(f"{folder / name} is missing; unpack the published archive again") from None


def _read_archive(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    """Return the wanted members by name, without their folders; nothing is written to the disk."""
    members = {}
    try:
        with open_plain(archive) as file, tarfile.open(fileobj=file, mode="r:gz") as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if name in wanted and member.isfile() and member.size <= MOST_MIB * 2**20:
                    content = tar.extractfile(member)
                    members[name] = content.read(member.size) if content else b""
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{archive} cannot be read ({error}); download it again") from error
    return members


def _member(archive: Path, members: Mapping[str, bytes], name: str) -> bytes:
    if name not in members:
        raise UserError(f"{archive} does not hold {name}; download it again")
    return members[name]


def _load(form: Form, place: Path, read: Callable[[str], bytes]) -> Published:
    parts, unknown = {}, []
    for part, names in form.parts.items():
        images, labels = [], []
        for name in names:
            content = read(name)
            if form.md5.get(name, "") != hashlib.md5(content, usedforsecurity=False).hexdigest():
                unknown.append(name)
            decoded = _from_binary(form, content) if form.label_bytes else _from_pickle(form, content)
            if decoded is None:
                raise UserError(
                    f"{place}/{name} is not a file of {form.archive.removesuffix('.tar.gz')}: it must hold images of "
                    f"{SIDE}x{SIDE}x{CHANNELS} bytes with their labels; download it again"
                )
            images.append(decoded[0])
            labels.append(decoded[1])
        pixels = np.concatenate(images).reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1)
        parts[part] = Split(np.ascontiguousarray(pixels), np.concatenate(labels).astype(np.int32))
    if not form.md5:
        return Published(
            parts, (f"the published checksums of {form.archive} are not known, so {place} was not checked",)
        )
    if unknown:
        return Published(parts, (f"{', '.join(unknown)} of {place} are not the published files (MD5)",))
    return Published(parts, ())


def _from_binary(form: Form, content: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Return images uint8 [N, 3072] and labels [N], or None if the file has another format."""
    record = form.label_bytes + PIXELS
    if not content or len(content) % record:
        return None
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, form.label_bytes :], records[:, form.label_bytes - 1]


def _from_pickle(form: Form, content: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Return images uint8 [N, 3072] and labels [N], or None if the file has another format."""
    try:
        value = _Reader(io.BytesIO(content), encoding="bytes").load()
        images, labels = value[b"data"], np.array(value[form.labels], np.int64)
    except UserError:
        raise
    except Exception:  # a damaged pickle raises errors of many kinds
        return None
    fits = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape == (len(labels), PIXELS)
    return (images, labels) if fits and labels.ndim == 1 and len(labels) and labels.min() >= 0 else None


class _Reader(pickle.Unpickler):
    """Reads arrays, and dicts and lists of numbers and text; refuses a pickle that asks for anything else."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _dtype,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in known:
            raise UserError(
                f"a pickle asks for {module[:50]}.{name[:50]}, which could run code; CIFAR's files need only arrays, "
                "so download them again"
            )
        return known[module, name]


def _empty_array(kind: type, shape: object, dtype: object) -> np.ndarray:
    return np.ndarray.__new__(np.ndarray, (0,), np.uint8)


def _dtype(name: object, *_: object) -> np.dtype:
    if name not in ("u1", b"u1"):
        raise ValueError("an array whose values are not bytes")
    return np.dtype("u1", copy=True)


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")
