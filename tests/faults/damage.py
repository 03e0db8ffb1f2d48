"""Every file of the newest checkpoint emptied, truncated, deleted, and with one bit flipped, in turn."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from cnnjax import checkpoint
from tests.faults.workshop import Row, Workshop, check, epochs_done, running, wait_for

EPOCHS = ("--train.epochs", 4)


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "emptied": lambda path, rng: path.write_bytes(b"") and None,
    "truncated": cut,
    "deleted": lambda path, rng: path.unlink(),
    "one bit flipped": flip,
}


def unfinished(shop: Workshop) -> Path:
    """Return a run that was killed after three of its four epochs."""
    run = shop.new_run("to-be-damaged")
    with running(shop.start(run, *EPOCHS)) as process:
        wait_for(process, lambda: (run / "checkpoints" / "step-00000060").exists())
    check(epochs_done(run) >= 3, "the run was killed too early")
    for leftover in (run / "checkpoints").glob(".*"):
        shutil.rmtree(leftover)
    shutil.rmtree(run / "checkpoints" / "step-00000080", ignore_errors=True)
    return run


def files_of(run: Path) -> list[Path]:
    newest = checkpoint.list_paths(run / "checkpoints")[-1]
    return sorted(path.relative_to(run) for path in newest.rglob("*") if path.is_file() and path.stat().st_size)


def damaged(shop: Workshop, run: Path, file: Path, kind: str, trial: str) -> str | None:
    """Damage a copy's file and start it; return what is wrong with what it did."""
    copy = shop.new_run(f"damaged-{trial}")
    shutil.copytree(run, copy)
    try:
        DAMAGES[kind](copy / file, random.Random(trial))
        ended = shop.train(copy, *EPOCHS)
        check(ended.code == 0, f"exit code {ended.code}: {ended.err}")
        name = file.parts[1]
        check(f"{name} is damaged" in ended.out, f"the damage is not named: {ended.out}")
        check(f"it is kept as damaged-{name}" in ended.out, "it was not set aside")
        check((copy / "checkpoints" / f"damaged-{name}").is_dir(), "it was not kept")
        check("resuming after epoch 2" in ended.out, f"not the newest good one was used: {ended.out}")
        shop.check_same(copy, *EPOCHS)
    except Exception as error:
        return f"{file} {kind}: {type(error).__name__}: {error}"
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    return None


def all_damaged(shop: Workshop, run: Path) -> Row:
    """Damage every checkpoint: exit code 2 and the list, never a fresh start."""
    copy = shop.new_run("all-damaged")
    shutil.copytree(run, copy)
    names = [path.name for path in checkpoint.list_paths(copy / "checkpoints")]
    for name in names:
        flip(copy / "checkpoints" / name / "info.json", random.Random(name))
    try:
        for _ in range(2):
            ended = shop.train(copy, *EPOCHS)
            ended.one_sentence(2, "are damaged: ", *(f"damaged-{name}" for name in names))
    except Exception as error:
        return Row("all checkpoints damaged", 1, 0, problems=(f"{type(error).__name__}: {error}",))
    return Row("all checkpoints damaged", 1, 1, "exit code 2 and the list, also when started again")
