"""Checkpoints: orbax for the arrays, and around it what orbax does not give.

A checkpoint is a folder ``step-00000141`` with one orbax folder per item (``variables``; ``training`` where it can be
continued), ``info.json`` (what the network is and how far it has come), ``format.json``, files that its writer adds,
and ``manifest.json`` (the sha256 of every file). It is written under another name, synced and renamed, so that a folder
with this name is complete; what was damaged afterwards is noticed by the manifest before anything is restored.

``within-00000146`` is the same in the middle of an epoch, where a signal ended the run: it is gone on from, and is
neither counted nor ever the best.
"""

import contextlib
import dataclasses
import errno
import gc
import io
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cnnjax import formats
from cnnjax.config import MOST_SECONDS, MOST_STEPS
from cnnjax.errors import UserError, shown
from cnnjax.fields import is_number
from cnnjax.files import (
    json_bytes,
    make_folder,
    plain_files,
    read_bytes,
    read_json,
    remove,
    sha256,
    sync_folder,
    sync_tree,
    write_json,
)
from cnnjax.formats import NewerFormat

FORMAT = 1
LARGEST_INT32, LARGEST_FLOAT32 = int(np.iinfo(np.int32).max), float(np.finfo(np.float32).max)
MOMENT = 0.3
"""Seconds without a complaint after which a save that failed is taken to have ended."""
LARGEST_DESCRIPTION_MIB = 16
"""Of each file of orbax's but the arrays themselves; orbax reads it whole."""
_DAMAGE = (
    errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO), errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
    errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG,
)  # fmt: skip
"""Why a file cannot be read that will not be read later either; of all else, such as too many open files, it may."""
_NAME = re.compile(r"(step|within)-(\d{8,})")


with contextlib.suppress(ImportError):
    # For a line in its log orbax asks tensorstore (0.1) before and after each save how many bytes it wrote, and every
    # answer stays in memory: some ten KB a save, for ever. Where orbax has no such function any more, nothing happens.
    from orbax.checkpoint._src.serialization import tensorstore_utils

    tensorstore_utils.get_tensorstore_raw_bytes = lambda direction=None: 0


class OutOfReach(UserError):
    """What cannot be read now, and may be whole."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A complete and undamaged checkpoint."""

    path: Path
    step: int
    info: dict[str, Any]


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
        with _silent_orbax():
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
            f"checkpoint {path} could not be saved ({_reason(error)}); those saved before are as they were: see to "
            "the disk, then the same command goes on from them"
        ) from error


def _is_there(folder: Path, place: os.stat_result | None) -> bool:
    try:
        return place is None or os.path.samestat(place, folder.stat())
    except OSError:
        return False


def _write(folder: Path, items: Mapping[str, Any], info: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    # Not orbax's asynchronous one: where a folder cannot be made, that one's threads wait ten minutes for each other.
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        for name, tree in items.items():
            checkpointer.save(folder.resolve() / name, args=ocp.args.StandardSave(tree))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    write_json(folder / "info.json", {**info, "items": {name: _shapes(tree) for name, tree in items.items()}})
    formats.write_file(folder, FORMAT)
    write_json(folder / "manifest.json", {str(p.relative_to(folder)): sha256(p) for p in plain_files(folder)})
    sync_tree(folder)


@contextlib.contextmanager
def _silent_orbax() -> Iterator[None]:
    """Keep what writes checkpoints from printing tracebacks of errors that it raises too.

    After one, its other writes end when nobody waits for them any more, and complain of that; they are given a moment.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            try:
                yield
            except Exception:
                heard = -1
                while heard != (heard := len(told.getvalue())):
                    time.sleep(MOMENT)
                    gc.collect()  # what failed unheard says so when it is forgotten
                raise
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _reason(error: Exception) -> str:
    """Return what went wrong: the system's own words where they can be found in a library's."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES))
    return next((text for text in known if text in str(error)), f"{type(error).__name__}: {str(error)[:200]}")


def restore(checkpoint: Checkpoint, item: str, like: Any) -> Any:
    """Return an item in the structure of ``like``: a pytree of arrays, or of their shapes and dtypes.

    Raises:
        UserError: the checkpoint has no such item, or its leaves have other names, shapes or dtypes.
    """
    held, wanted = checkpoint.info["items"].get(item, {}), _shapes(like)
    for leaf in sorted(held.keys() | wanted.keys()):
        if held.get(leaf) != wanted.get(leaf):
            raise UserError(
                f"{checkpoint.path / item} does not fit: {leaf} is {held.get(leaf, 'missing')} there, "
                f"and {wanted.get(leaf, 'nothing of that name')} is needed"
            )
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), like)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            _require_same(checkpointer.metadata(checkpoint.path.resolve() / item).item_metadata, target)
            restored = checkpointer.restore(checkpoint.path.resolve() / item, target)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # its files are those of its manifest, but somebody else's
        raise UserError(f"checkpoint {checkpoint.path} cannot be read: {item}: {_reason(error)}") from error
    # orbax binds arrays to their device, and a jitted function with bound arrays is another program. Free ones are what
    # a fresh start has, so that a continued training runs the programs of one that was never stopped.
    return jax.tree.map(lambda leaf: jax.device_put(np.array(leaf)), restored)


def _require_same(stored: Any, target: Any) -> None:
    """Raise ValueError where orbax's own description of an array is another, or its chunks are larger than the array.

    For a chunk, as much memory is taken as it is said to need, before anything of it is read.
    """
    found = _by_name(stored.tree)
    for name, wanted in _by_name(target).items():
        leaf = found[name]
        chunk = leaf.storage.chunk_shape
        fits = all(part <= max(1, whole) for part, whole in zip(chunk, wanted.shape, strict=True))
        if (tuple(leaf.shape), leaf.dtype) != (wanted.shape, wanted.dtype) or not fits:
            raise ValueError(
                f"{name} is {leaf.dtype}{list(leaf.shape)} in chunks of {list(chunk)}; it must be "
                f"{wanted.dtype}{list(wanted.shape)} in chunks that are no larger"
            )


def _by_name(tree: Any) -> dict[str, Any]:
    """Return each leaf by the path to it, which is the same where orbax has made lists of tuples."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def open_checkpoint(path: Path) -> Checkpoint:
    """Check every file of a checkpoint against its manifest.

    Raises:
        NewerFormat: only a newer cnnjax can read it.
        OutOfReach: it cannot be read now, which says nothing against it.
        UserError: it is damaged; the sentence names it.
    """
    if not _NAME.fullmatch(path.name):
        raise UserError(f"{path} is not a checkpoint: its name must be step-NNNNNNNN")
    try:
        info = _whole_info(path)
    except NewerFormat:
        raise
    except (UserError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno not in _DAMAGE:
            raise OutOfReach(
                f"checkpoint {path} cannot be read now ({_reason(cause)}); it stays as it is, and the same command "
                "tries it again"
            ) from error
        raise UserError(f"checkpoint {path} is damaged: {error}") from error
    return Checkpoint(path, _step(path), _checked(path, info))


def _whole_info(path: Path) -> Any:
    """Return a checkpoint's info once each of its files was found to be as it was written."""
    if (path / formats.FILE).exists():  # the first checkpoints have none
        formats.check_file(f"checkpoint {path}", path, FORMAT)
    files = {str(file.relative_to(path)): file for file in plain_files(path)}
    for name, file in files.items():
        size = file.stat().st_size
        if _is_description(name) and size > LARGEST_DESCRIPTION_MIB * 2**20:
            raise UserError(f"{name} has {size / 2**20:.0f} MiB; it may have {LARGEST_DESCRIPTION_MIB}")
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or read_bytes(path / "manifest.json") != json_bytes(manifest):
        raise UserError("manifest.json is not as it was written")
    if manifest.keys() != files.keys() - {"manifest.json"}:
        raise UserError("its files are not those of its manifest")
    for name, digest in manifest.items():
        try:
            matches = sha256(files[name]) == digest
        except OSError as error:
            raise UserError(f"{name} cannot be read: {_reason(error)}") from error
        if not matches:
            raise UserError(f"{name} does not match its manifest")
    return read_json(path / "info.json")


def _is_description(name: str) -> bool:
    """Return whether a file is one of orbax's that describe an item; its arrays lie in folders ``d``."""
    folders = name.split("/")[:-1]
    return bool(folders) and folders[-1] != "d"


def _checked(path: Path, info: Any) -> dict[str, Any]:
    """Return a checkpoint's info; UserError unless what is read of it is as `save` writes it: a stranger may have."""
    formats.check(f"checkpoint {path}", info, FORMAT)
    standing, tally, data = (info.get(name, {}) for name in ("early_stopping", "tally", "data"))
    items = info.get("items")
    sound = {
        "items": isinstance(items, dict) and all(isinstance(item, dict) for item in items.values()),
        "step": info.get("step", _step(path)) == _step(path) <= MOST_STEPS,
        "epoch": _is_count(info.get("epoch", 0)),
        "early_stopping": isinstance(standing, dict)
        and _is_count(standing.get("best_step", 0))
        and _is_count(standing.get("stale_epochs", 0)),
        "tally": tally == {}
        or (
            isinstance(tally, dict)
            and is_number(tally.get("loss"), -LARGEST_FLOAT32, LARGEST_FLOAT32)
            and _is_count(tally.get("images"))
            and _is_count(tally.get("correct"), tally["images"])
        ),
        "data": data == {} or (isinstance(data, dict) and isinstance(data.get("content_hash"), str)),
        "seconds": is_number(info.get("seconds", 0.0), 0, MOST_SECONDS),
    }
    for name, is_sound in sound.items():
        if not is_sound:
            raise UserError(f"checkpoint {path} is not one of cnnjax: its {name} is {shown(info.get(name))}")
    return info


def _is_count(value: Any, most: int = LARGEST_INT32) -> bool:
    return is_number(value, 0, most, int)


def list_paths(folder: Path) -> list[Path]:
    """Return the checkpoints' folders, oldest first."""
    found = [path for path in folder.glob("*-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_step(path), path.name.startswith("step")))


def newest_step(folder: Path) -> int:
    """Return the newest checkpoint's step, by its name alone; 0 where there is none."""
    paths = list_paths(folder)
    return _step(paths[-1]) if paths else 0


def newest_good(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest undamaged checkpoint, or None where there never was one, and a line on each one set aside.

    A damaged checkpoint is renamed ``damaged-step-...``, so that it is neither used nor lost.

    Raises:
        UserError: there are checkpoints, and all of them are damaged; OutOfReach; NewerFormat.
    """
    notices: list[str] = []
    for path in reversed(list_paths(folder)):
        try:
            return open_checkpoint(path), notices
        except (NewerFormat, OutOfReach):
            raise
        except UserError as error:
            kept = _free_name(folder / f"damaged-{path.name}")
            try:
                path.rename(kept)
            except OSError as refusal:
                raise UserError(f"{error}; it cannot be set aside as {kept.name}: {refusal.strerror}") from error
            notices.append(f"{error}; it is kept as {kept.name}")
    if damaged := sorted(path.name for path in folder.glob("damaged-*")):
        raise UserError(f"all checkpoints in {folder} are damaged: {', '.join(damaged)}; move them away to start anew")
    return None, notices


def best(folder: Path) -> Checkpoint:
    """Return the best checkpoint by validation; of a folder that was not trained here, its newest.

    The newest undamaged one tells which is the best. Nothing is renamed.

    Raises:
        UserError: there is no checkpoint, all are damaged, or the best one is.
    """
    problem = UserError(f"{folder} holds no checkpoint; give the folder of a run that has saved at least one")
    for path in reversed(list_paths(folder)):
        try:
            newest = open_checkpoint(path)
        except (NewerFormat, OutOfReach):
            raise
        except UserError as error:
            problem = error
            continue
        step = _best_step(newest.info, newest.step)
        if step == newest.step and path.name.startswith("step"):
            return newest
        if not step:
            raise UserError(f"{path} lies within the first epoch, and nothing was judged yet; train on, then come back")
        return _open_best(folder / f"step-{step:08d}")
    raise problem


def _open_best(path: Path) -> Checkpoint:
    advice = "bring it back from a copy, or train anew with another --out"
    if not path.is_dir():
        raise UserError(f"the best checkpoint, {path}, is missing; {advice}")
    try:
        return open_checkpoint(path)
    except OutOfReach:
        raise
    except UserError as error:
        raise UserError(f"{error}; it is the best one: {advice}") from error


def prune(folder: Path, keep: int, best_step: int) -> None:
    """Delete all but the newest ``keep`` checkpoints and the best, and what lies within earlier epochs or a kill left.

    What each of the newest ones calls the best stays too: it is the best again if the others turn out to be damaged.
    """
    whole = [path for path in list_paths(folder) if path.name.startswith("step")]
    needed = {best_step, *map(_best_said, whole[-keep:])}
    kept = [*whole[-keep:], *(path for path in whole if _step(path) in needed)]
    newest = _step(whole[-1]) if whole else 0
    for path in list_paths(folder):
        if path not in kept and _step(path) <= newest:
            # Renamed first: a folder under its own name is always whole.
            path.rename(path.with_name(f".{path.name}.writing"))
    for leftover in folder.glob(".*.writing"):
        with contextlib.suppress(OSError):
            remove(leftover)


def _best_said(path: Path) -> int:
    try:
        return _best_step(_checked(path, read_json(path / "info.json")), _step(path))
    except UserError:  # damaged: noticed when it is opened
        return _step(path)


def _best_step(info: dict[str, Any], default: int) -> int:
    """Return the best step by a checkpoint's info; ``default`` where it was not trained here."""
    return info.get("early_stopping", {}).get("best_step", default)


def _step(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _shapes(tree: Any) -> dict[str, str]:
    """Return each leaf's dtype and shape by its place in the tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _free_name(path: Path) -> Path:
    names = [path, *(path.with_name(f"{path.name}-{n}") for n in range(2, 1000))]
    return next(name for name in names if not os.path.lexists(name))
