"""The index of a photo folder: the size of each photo, from its header, without decoding it.

The index of a directory or zip is cached in the user's cache folder (`CNNJAX_CACHE`) under a key made from the paths,
sizes and modification times (in a zip, CRCs) of all files, so a folder that has not changed opens without reading its
files again.
"""

import contextlib
import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax.data.folder_layout import Files, is_left_out
from cnnjax.data.image_files import decode_picture, read_header
from cnnjax.system import signals
from cnnjax.system.compilation import cache_folder, make_private

FORMAT = 1
"""Version of the cached files; part of their key."""
MOST_CACHED = 20
"""Number of indices in the cache; the ones that were used least recently are deleted."""


class PhotoIndex(NamedTuple):
    """Height, width (int32 [N], after rotation by EXIF) and grayscale (bool [N]) of files, and the unusable ones."""

    heights: np.ndarray
    widths: np.ndarray
    gray: np.ndarray
    left_out: dict[int, str]
    """Files that are not images and have no image suffix, with the reason."""
    damaged: dict[int, str]
    """Files that should be images and cannot be read, with the reason."""

    @property
    def usable(self) -> np.ndarray:
        """Whether each file is an image, bool [N]."""
        usable = np.ones(len(self.heights), bool)
        usable[[*self.left_out, *self.damaged]] = False
        return usable


def open_index(place: Path, files: Files, names: Sequence[str], stamps: np.ndarray, thorough: bool) -> PhotoIndex:
    """Return the index of the files ``names``, from the cache if they have not changed.

    Args:
        place: the directory or zip.
        files: its files.
        names: paths of the files to index.
        stamps: int64 [N, 2], their sizes and modification times (in a zip, CRCs).
        thorough: decode each file as well, to find damage beyond the header.
    """
    path = _cache_path(place, names, stamps, thorough)
    if path is not None and (cached := _read(path)) is not None:
        return cached
    index = build_index(files, names, thorough)
    if path is not None:
        _write(path, index)
    return index


def build_index(files: Files, names: Sequence[str], thorough: bool = False) -> PhotoIndex:
    """Read the header of each file; see `open_index`."""
    sizes, gray = np.zeros((2, len(names)), np.int32), np.zeros(len(names), bool)
    left_out: dict[int, str] = {}
    damaged: dict[int, str] = {}
    for index, name in enumerate(names):
        signals.poll()
        try:
            with files.open(name) as file:
                (width, height), gray[index] = read_header(file)
            if thorough:
                decode_picture(files.read(name))
            sizes[:, index] = height, width
        except Exception as error:  # zipfile and zlib raise many kinds of errors for a damaged file
            (left_out if is_left_out(name, error) else damaged)[index] = str(error)
    return PhotoIndex(sizes[0], sizes[1], gray, left_out, damaged)


def _cache_path(place: Path, names: Sequence[str], stamps: np.ndarray, thorough: bool) -> Path | None:
    root = cache_folder()
    if root is None:
        return None
    folder = root.parent / "photos"
    try:
        make_private(folder)
    except OSError:  # the index is rebuilt each time
        return None
    digest = hashlib.sha256(f"{FORMAT} {thorough} {place.resolve()!a}\n".encode())
    digest.update("\n".join(names).encode(errors="surrogateescape"))
    digest.update(stamps.tobytes())
    return folder / f"{digest.hexdigest()}.npz"


def _read(path: Path) -> PhotoIndex | None:
    """Return a cached index, or None if it is missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            problems = json.loads(str(arrays["problems"]))
            left_out, damaged = ({int(index): reason for index, reason in part.items()} for part in problems)
            index = PhotoIndex(arrays["heights"], arrays["widths"], arrays["gray"], left_out, damaged)
        os.utime(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return index


def _write(path: Path, index: PhotoIndex) -> None:
    """Cache an index; a full disk only means that it is built again."""
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=path.parent) as aside:
        file = Path(aside) / "index.npz"
        problems = json.dumps([index.left_out, index.damaged])
        np.savez(file, heights=index.heights, widths=index.widths, gray=index.gray, problems=np.array(problems))
        file.replace(path)
        others = sorted(path.parent.glob("*.npz"), key=lambda other: other.stat().st_mtime_ns, reverse=True)
        for other in others[MOST_CACHED:]:
            other.unlink(missing_ok=True)
