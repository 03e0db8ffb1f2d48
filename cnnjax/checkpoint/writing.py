"""How a checkpoint is saved: aside, synced, with a manifest, and renamed."""

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
from cnnjax.system.files import make_folder, plain_files, read_json, remove, sha256, sync_folder, sync_tree, write_json


def save(
    folder: Path, step: int, items: Mapping[str, Any], info: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None, *, within_epoch: bool = False, place: os.stat_result | None = None,
    require_lock: Callable[[], None] = lambda: None,
) -> Checkpoint:  # fmt: skip
    """Write ``folder/step-NNNNNNNN`` with pytrees of arrays as ``items``; return when it is complete and on disk.

    With ``place``, what ``folder.stat()`` was, the folder must still be there, and be the same. ``require_lock`` is
    called before anything is written, and before that gets its name.

    Raises:
        LostLock: by ``require_lock``; what is there stays as it is.
        UserError: it could not be written; nothing of it is left, and the earlier ones are as they were.
    """
    path = folder / f"{'within' if within_epoch else 'step'}-{step:08d}"
    aside = folder / f".{path.name}.writing"
    require_lock()
    try:
        if place is None:
            make_folder(folder)
        remove(aside)
        aside.mkdir()
        with arrays.silent_orbax():
            _write(aside, items, {**formats.written(FORMAT), "step": step, **info}, files or {})
        if not _is_there(folder, place):  # moved away, and made again by orbax
            raise FileNotFoundError(errno.ENOENT, "its folder has vanished in the meantime")
        require_lock()
        remove(path)  # the same step, saved by a run that was killed before it noted so
        aside.rename(path)
        sync_folder(folder)
        return Checkpoint(path, step, read_json(path / "info.json"))
    except Exception as error:  # orbax and what it is built on say in many ways that a disk is full
        if _is_there(folder, place):
            require_lock()  # without it, what lies aside may be another process's
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):  # where the run's folder had gone, orbax made these two again, empty
            folder.rmdir()
            folder.parent.rmdir()
        raise UserError(
            f"checkpoint {path} could not be saved ({reason(error)}); earlier checkpoints are intact: fix "
            "the disk, then run the same command to resume"
        ) from error


def _is_there(folder: Path, place: os.stat_result | None) -> bool:
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
