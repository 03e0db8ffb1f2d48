"""Damage each file of the newest checkpoint: empty, truncate or delete it, or flip one bit."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from cnnjax import checkpoint
from tests.faults.harness import Harness, Row, check, epochs_done, running, wait_for

EPOCHS = ("--train.epochs", 4)


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "emptied": lambda path, rng: path.write_bytes(b"") and None,
    "truncated": truncate,
    "deleted": lambda path, rng: path.unlink(),
    "with one bit flipped": flip,
}


def unfinished(harness: Harness) -> Path:
    """Return a run killed after three of its four epochs."""
    run = harness.new_run("to-be-damaged")
    with running(harness.start(run, *EPOCHS)) as process:
        wait_for(process, lambda: (run / "checkpoints" / "step-00000060").exists())
    check(epochs_done(run) >= 3, "the run was killed too early")
    for leftover in (run / "checkpoints").glob(".*"):
        shutil.rmtree(leftover)
    shutil.rmtree(run / "checkpoints" / "step-00000080", ignore_errors=True)
    return run


def files_of(run: Path) -> list[Path]:
    newest = checkpoint.list_paths(run / "checkpoints")[-1]
    return sorted(path.relative_to(run) for path in newest.rglob("*") if path.is_file() and path.stat().st_size)


def damage_file(harness: Harness, run: Path, file: Path, kind: str, trial: str) -> str | None:
    """Damage a file in a copy of the run, then resume the copy; return the problem, if any."""
    copy = harness.new_run(f"damaged-{trial}")
    shutil.copytree(run, copy)
    try:
        DAMAGES[kind](copy / file, random.Random(trial))
        ended = harness.train(copy, *EPOCHS)
        check(ended.code == 0, f"exit code {ended.code}: {ended.err}")
        name = file.parts[1]
        check(f"{name} is damaged" in ended.out, f"the damage is not reported: {ended.out}")
        check(f"it is kept as damaged-{name}" in ended.out, "the checkpoint was not set aside")
        check((copy / "checkpoints" / f"damaged-{name}").is_dir(), "the damaged checkpoint was not kept")
        check("resuming after epoch 2" in ended.out, f"the newest good checkpoint was not used: {ended.out}")
        harness.check_same(copy, *EPOCHS)
    except Exception as error:
        return f"{file} {kind}: {type(error).__name__}: {error}"
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    return None


def all_damaged(harness: Harness, run: Path) -> Row:
    """Damage every checkpoint: the run must exit with code 2 and list them, and never start afresh."""
    copy = harness.new_run("all-damaged")
    shutil.copytree(run, copy)
    names = [path.name for path in checkpoint.list_paths(copy / "checkpoints")]
    for name in names:
        flip(copy / "checkpoints" / name / "info.json", random.Random(name))
    try:
        for _ in range(2):
            ended = harness.train(copy, *EPOCHS)
            ended.check_error(2, "are damaged: ", *(f"damaged-{name}" for name in names))
    except Exception as error:
        return Row("all checkpoints damaged", 1, 0, problems=(f"{type(error).__name__}: {error}",))
    return Row("all checkpoints damaged", 1, 1, "exit code 2 and a list, also on the second start")
