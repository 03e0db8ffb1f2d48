"""Verify a checkpoint: every file must match the manifest, and the info must be valid."""

import dataclasses
import errno
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.config import MOST_SECONDS, MOST_STEPS
from cnnjax.errors import UserError, quoted
from cnnjax.system import formats
from cnnjax.system.files import json_bytes, plain_files, read_bytes, read_json, sha256
from cnnjax.system.formats import NewerFormat

FORMAT = 2
LARGEST_INT32, LARGEST_FLOAT32 = int(np.iinfo(np.int32).max), float(np.finfo(np.float32).max)
LARGEST_DESCRIPTION_MIB = 16
"""Maximum size of an orbax metadata file, which orbax reads whole."""
_DAMAGE = (
    errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO), errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
    errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG,
)  # fmt: skip
"""Errors that mean damage. After any other error, such as too many open files, the file may be readable later."""
NAME = re.compile(r"(step|within)-(\d{8,})")


class OutOfReach(UserError):
    """The checkpoint cannot be read now, but may be intact."""


class Damaged(UserError):
    """The checkpoint has been altered, or was not written by cnnjax."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A complete and undamaged checkpoint."""

    path: Path
    step: int
    info: dict[str, Any]


def open_checkpoint(path: Path) -> Checkpoint:
    """Check every file of a checkpoint against its manifest.

    Raises:
        NewerFormat: only a newer cnnjax can read it.
        OutOfReach: it cannot be read now, but may be intact.
        Damaged: a file does not match the manifest, or the info is invalid.
        UserError: its name is not that of a checkpoint.
    """
    if not NAME.fullmatch(path.name):
        raise UserError(f"{path} is not a checkpoint: its name must be step-NNNNNNNN or within-NNNNNNNN")
    try:
        info = _verified_info(path)
        return Checkpoint(path, step_of(path), checked(path, info))
    except (NewerFormat, Damaged):
        raise
    except (UserError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno not in _DAMAGE:
            raise OutOfReach(
                f"checkpoint {path} cannot be read now ({reason(cause)}) and is left unchanged; run the same command "
                "to try again"
            ) from error
        raise Damaged(f"checkpoint {path} is damaged: {error}") from error


def _verified_info(path: Path) -> Any:
    """Return a checkpoint's info after comparing each of its files with the manifest."""
    if (path / formats.FILE).exists():  # the earliest checkpoints have none
        formats.check_file(f"checkpoint {path}", path, FORMAT)
    files = {str(file.relative_to(path)): file for file in plain_files(path)}
    for name, file in files.items():
        size = file.stat().st_size
        if _is_description(name) and size > LARGEST_DESCRIPTION_MIB * 2**20:
            raise UserError(f"{name} is {size / 2**20:.0f} MiB; the limit is {LARGEST_DESCRIPTION_MIB} MiB")
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or read_bytes(path / "manifest.json") != json_bytes(manifest):
        raise UserError("manifest.json has been altered")
    if manifest.keys() != files.keys() - {"manifest.json"}:
        raise UserError("its files differ from its manifest")
    for name, digest in manifest.items():
        try:
            matches = sha256(files[name]) == digest
        except OSError as error:
            raise UserError(f"{name} cannot be read: {reason(error)}") from error
        if not matches:
            raise UserError(f"{name} does not match its manifest")
    return read_json(path / "info.json")


def _is_description(name: str) -> bool:
    """Return whether a file is orbax metadata of an item; array data is in folders named ``d``."""
    folders = name.split("/")[:-1]
    return bool(folders) and folders[-1] != "d"


def checked(path: Path, info: Any) -> dict[str, Any]:
    """Return a checkpoint's info; raise Damaged unless each field is one that `save` could have written."""
    try:
        formats.check(f"checkpoint {path}", info, FORMAT)
    except NewerFormat:
        raise
    except UserError as error:
        raise Damaged(str(error)) from None
    stopping, tally, data = (info.get(name, {}) for name in ("early_stopping", "tally", "data"))
    items = info.get("items")
    valid = {
        "items": isinstance(items, dict) and all(isinstance(item, dict) for item in items.values()),
        "step": info.get("step", step_of(path)) == step_of(path) <= MOST_STEPS,
        "epoch": _is_count(info.get("epoch", 0)),
        "early_stopping": isinstance(stopping, dict)
        and _is_count(stopping.get("best_step", 0))
        and _is_count(stopping.get("raw_best_step", 0))
        and _is_count(stopping.get("stale_epochs", 0)),
        "tally": tally == {}
        or (
            isinstance(tally, dict)
            and _is_number(tally.get("loss"), -LARGEST_FLOAT32, LARGEST_FLOAT32)
            and _is_count(tally.get("images"))
            and _is_count(tally.get("correct"), tally["images"])
        ),
        "data": data == {} or (isinstance(data, dict) and isinstance(data.get("content_hash"), str)),
        "seconds": _is_number(info.get("seconds", 0.0), 0, MOST_SECONDS),
    }
    for name, is_valid in valid.items():
        if not is_valid:
            raise Damaged(
                f"checkpoint {path} was not written by cnnjax: its field {name!r} is {quoted(info.get(name))}"
            )
    return info


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _is_count(value: Any, most: int = LARGEST_INT32) -> bool:
    return isinstance(value, int) and _is_number(value, 0, most)


def step_of(path: Path) -> int:
    """Return the step that a checkpoint's folder is named after."""
    return int(path.name.partition("-")[2])


def reason(error: Exception) -> str:
    """Return the cause of an error: the operating system's message if the error contains one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES))
    return next((text for text in known if text in str(error)), f"{type(error).__name__}: {str(error)[:200]}")
