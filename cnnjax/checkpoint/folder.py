"""The checkpoints of one folder: which there are, the newest that is whole, the best, and which have to stay."""

import contextlib
import os
from pathlib import Path
from typing import Any

from cnnjax.checkpoint.verify import NAME, Checkpoint, Damaged, checked, open_checkpoint, step_of
from cnnjax.errors import UserError
from cnnjax.system.files import read_json, remove


def list_paths(folder: Path) -> list[Path]:
    """Return the checkpoints' folders, oldest first."""
    paths = [path for path in folder.glob("*-*") if NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (step_of(path), path.name.startswith("step")))


def newest_step(folder: Path) -> int:
    """Return the newest checkpoint's step, by its name alone; 0 where there is none."""
    paths = list_paths(folder)
    return step_of(paths[-1]) if paths else 0


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
        except Damaged as error:
            kept = _free_name(folder / f"damaged-{path.name}")
            try:
                path.rename(kept)
            except OSError as refusal:
                raise UserError(f"{error}; it cannot be renamed to {kept.name}: {refusal.strerror}") from error
            notices.append(f"{error}; it is kept as {kept.name}")
    if damaged := sorted(path.name for path in folder.glob("damaged-*")):
        raise UserError(f"all checkpoints in {folder} are damaged: {', '.join(damaged)}; move them away to start over")
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
        except Damaged as error:
            problem = error
            continue
        step = _best_step(newest.info, newest.step)
        if step == newest.step and path.name.startswith("step"):
            return newest
        if not step:
            raise UserError(
                f"{path} is from within the first epoch, and nothing has been evaluated yet; train for at least one "
                "epoch first"
            )
        return _open_best(folder / f"step-{step:08d}")
    raise problem


def _open_best(path: Path) -> Checkpoint:
    advice = "restore it from a backup, or train again with another --out"
    if not path.is_dir():
        raise UserError(f"the best checkpoint, {path}, is missing; {advice}")
    try:
        return open_checkpoint(path)
    except Damaged as error:
        raise UserError(f"{error}; it is the best one: {advice}") from error


def prune(folder: Path, keep: int, best_step: int) -> None:
    """Delete all but the newest ``keep`` checkpoints and the best, and what lies within earlier epochs or a kill left.

    What each of the newest ones calls the best stays too: it is the best again if the others turn out to be damaged.
    """
    whole = [path for path in list_paths(folder) if path.name.startswith("step")]
    needed = {best_step, *map(_best_said, whole[-keep:])}
    kept = [*whole[-keep:], *(path for path in whole if step_of(path) in needed)]
    newest = step_of(whole[-1]) if whole else 0
    for path in list_paths(folder):
        if path not in kept and step_of(path) <= newest:
            # Renamed first: a folder under its own name is always whole.
            path.rename(path.with_name(f".{path.name}.writing"))
    for leftover in folder.glob(".*.writing"):
        with contextlib.suppress(OSError):
            remove(leftover)


def _best_said(path: Path) -> int:
    try:
        return _best_step(checked(path, read_json(path / "info.json")), step_of(path))
    except UserError:  # damaged: noticed when it is opened
        return step_of(path)


def _best_step(info: dict[str, Any], default: int) -> int:
    """Return the best step by a checkpoint's info; ``default`` where it was not trained here."""
    return info.get("early_stopping", {}).get("best_step", default)


def _free_name(path: Path) -> Path:
    names = [path, *(path.with_name(f"{path.name}-{n}") for n in range(2, 1000))]
    return next(name for name in names if not os.path.lexists(name))
