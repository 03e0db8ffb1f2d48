"""The checkpoints of a folder: list them, find the newest undamaged one and the best one, delete old ones."""

import contextlib
from pathlib import Path
from typing import Any

from cnnjax.checkpoint.verify import NAME, Checkpoint, Damaged, checked, open_checkpoint, step_of
from cnnjax.errors import UserError
from cnnjax.system.files import free_name, read_json, remove


def list_paths(folder: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first."""
    paths = [path for path in folder.glob("*-*") if NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (step_of(path), path.name.startswith("step")))


def newest_step(folder: Path) -> int:
    """Return the step in the newest checkpoint's name, or 0 if there is no checkpoint."""
    paths = list_paths(folder)
    return step_of(paths[-1]) if paths else 0


def newest_good(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest undamaged checkpoint, or None if there are no checkpoints, and a message for each damaged one.

    A damaged checkpoint is renamed to ``damaged-step-...``, so that it is neither used nor lost.

    Raises:
        UserError: all checkpoints are damaged; OutOfReach; NewerFormat.
    """
    notices: list[str] = []
    for path in reversed(list_paths(folder)):
        try:
            return open_checkpoint(path), notices
        except Damaged as error:
            renamed = free_name(folder / f"damaged-{path.name}")
            try:
                path.rename(renamed)
            except OSError as rename_error:
                raise UserError(f"{error}; it cannot be renamed to {renamed.name}: {rename_error.strerror}") from error
            notices.append(f"{error}; it is kept as {renamed.name}")
    if damaged := sorted(path.name for path in folder.glob("damaged-*")):
        raise UserError(f"all checkpoints in {folder} are damaged: {', '.join(damaged)}; move them away to start over")
    return None, notices


def best(folder: Path, *, raw: bool = False) -> Checkpoint:
    """Return the best checkpoint by validation, or the newest one if cnnjax did not train the network.

    The newest undamaged checkpoint records which one is the best, and if the training keeps moving averages, also which
    one has the best ``raw`` parameters. Nothing is renamed.

    Raises:
        UserError: there is no checkpoint, all are damaged, or the best one is damaged or missing.
    """
    problem = UserError(f"{folder} holds no checkpoint; give the folder of a run that has saved at least one")
    for path in reversed(list_paths(folder)):
        try:
            newest = open_checkpoint(path)
        except Damaged as error:
            problem = error
            continue
        recorded = _best_steps(newest.info, newest.step)
        step = recorded[1 if raw else 0]
        if step == newest.step and path.name.startswith("step"):
            return newest
        if not step:
            raise UserError(
                f"{path} was saved within the first epoch, before any evaluation; train for at least one epoch first"
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


def prune(folder: Path, keep: int, best_step: int, raw_best_step: int = 0) -> None:
    """Delete old checkpoints; keep the best, the newest ``keep``, and the checkpoints that those record as the best.

    The latter are needed if newer checkpoints are damaged. Checkpoints within completed epochs and leftovers of a
    killed process are deleted too.
    """
    complete = [path for path in list_paths(folder) if path.name.startswith("step")]
    best_steps = {best_step, raw_best_step}.union(*map(_recorded_best, complete[-keep:]))
    kept = [*complete[-keep:], *(path for path in complete if step_of(path) in best_steps)]
    newest = step_of(complete[-1]) if complete else 0
    for path in list_paths(folder):
        if path not in kept and step_of(path) <= newest:
            # Rename first, so that a folder with the name of a checkpoint is always complete.
            path.rename(path.with_name(f".{path.name}.writing"))
    for leftover in folder.glob(".*.writing"):
        with contextlib.suppress(OSError):
            remove(leftover)


def _recorded_best(path: Path) -> tuple[int, ...]:
    try:
        return _best_steps(checked(path, read_json(path / "info.json")), step_of(path))
    except UserError:  # damaged, which is reported when it is opened
        return (step_of(path),)


def _best_steps(info: dict[str, Any], default: int) -> tuple[int, int]:
    """Return the best step recorded in a checkpoint's info, or ``default``, and that of the best raw parameters.

    A run without moving averages records only one step, as older versions always did.
    """
    stopping = info.get("early_stopping", {})
    step = stopping.get("best_step", default)
    return step, stopping.get("raw_best_step") or step
