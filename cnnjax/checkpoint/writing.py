"""Save a checkpoint atomically: write it under a temporary name, add a manifest, sync, rename."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cnnjax.checkpoint import arrays
from cnnjax.checkpoint.verify import FORMAT, Checkpoint, reason
from cnnjax.errors import UserError
from cnnjax.system import formats
from cnnjax.system.files import (
    make_folder,
    plain_files,
    read_json,
    remove,
    require_utf8,
    sha256,
    sync_folder,
    sync_tree,
    write_json,
)


def save(
    folder: Path, step: int, items: Mapping[str, Any], info: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None, *, within_epoch: bool = False, place: os.stat_result | None = None,
    require_lock: Callable[[], None] = lambda: None,
) -> Checkpoint:  # fmt: skip
    """Write ``folder/step-NNNNNNNN`` with pytrees of arrays as ``items``; return once it is complete and on disk.

    ``place`` is an earlier ``folder.stat()``: the folder must still exist and be the same. ``require_lock`` is called
    before writing and before renaming.

    Raises:
        LostLock: from ``require_lock``; existing files are left unchanged.
        UserError: its path is not UTF-8, or it could not be written; no part of it remains, and earlier checkpoints are
            unchanged.
    """
    path = folder / f"{'within' if within_epoch else 'step'}-{step:08d}"
    temporary = folder / f".{path.name}.writing"
    require_utf8(folder)
    require_lock()
    try:
        if place is None:
            make_folder(folder)
        remove(temporary)
        temporary.mkdir()
        with arrays.silent_orbax():
            _write(temporary, items, {**formats.written(FORMAT), "step": step, **info}, files or {})
        if not _is_same_folder(folder, place):  # moved away, and recreated by orbax
            raise FileNotFoundError(errno.ENOENT, "its folder has vanished in the meantime")
        require_lock()
        remove(path)  # the same step, saved by a run that was killed before it recorded it
        temporary.rename(path)
        sync_folder(folder)
        return Checkpoint(path, step, read_json(path / "info.json"))
    except Exception as error:  # orbax and its dependencies raise many types for a full disk
        if _is_same_folder(folder, place):
            require_lock()  # without the lock, the temporary folder may be another process's
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # if the run folder was gone, orbax has recreated these two, empty
            folder.rmdir()
            folder.parent.rmdir()
        raise UserError(
            f"checkpoint {path} could not be saved ({reason(error)}); earlier checkpoints are intact: fix "
            "the disk, then run the same command to resume"
        ) from error


def _is_same_folder(folder: Path, place: os.stat_result | None) -> bool:
    try:
        return place is None or os.path.samestat(place, folder.stat())
    except OSError:
        return False


def _write(folder: Path, items: Mapping[str, Any], info: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    arrays.write(folder, items)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    write_json(folder / "info.json", {**info, "items": {name: arrays.shapes(tree) for name, tree in items.items()}})
    formats.write_file(folder, FORMAT)
    write_json(folder / "manifest.json", {str(p.relative_to(folder)): sha256(p) for p in plain_files(folder)})
    sync_tree(folder)
