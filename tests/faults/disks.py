"""Disks that fill up, turn read-only or vanish under a run."""

import contextlib
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cnnjax import checkpoint
from tests.faults.workshop import TIMEOUT, Ended, Row, Workshop, check, epochs_done, finish, running, wait_for


def mounts_allowed(folder: Path) -> bool:
    """Return whether this process may mount."""
    place = folder / "mount-trial"
    place.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", str(place)], capture_output=True, check=True)
    return True


@contextlib.contextmanager
def mounted(place: Path, *arguments: str) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *arguments, str(place)], capture_output=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=True)


def earlier_are_intact(run: Path) -> int:
    """Check every checkpoint that has a final name, and that no half of one lies about; return how many there are."""
    paths = checkpoint.list_paths(run / "checkpoints")
    for path in paths:
        checkpoint.open_checkpoint(path)
    left = [path.name for path in run.rglob("*.writing")]
    check(not left, f"left behind: {left}")
    return len(paths)


def tried(fault: str, trial: Callable[[], str]) -> Row:
    try:
        return Row(fault, 1, 1, trial())
    except Exception as error:
        return Row(fault, 1, 0, problems=(f"{type(error).__name__}: {error}",))


def full_tmpfs(shop: Workshop, kilobytes: int) -> Row:
    """Train on a file system of that size, which fills in mid-save; give it more room, and go on."""
    place = shop.folder / f"tmpfs-{kilobytes}"

    def trial() -> str:
        run = place / "run"
        with mounted(place, "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs"):
            shop.train(run).one_sentence(2, "could not be saved (No space left on device)")
            kept = earlier_are_intact(run)
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], capture_output=True, check=True)
            shop.go_on(run)
        return f"{kept} kept at {kilobytes} KB"

    return tried("a tmpfs that fills in mid-save", trial)


def file_size_limit(shop: Workshop, limit: int) -> Row:
    """Train with a limit on a file's size that a save exceeds; then without, and go on."""

    def trial() -> str:
        run = shop.new_run(f"limited-{limit}")
        with running(shop.start(run)) as process:
            wait_for(process, lambda: epochs_done(run) >= 3)
        with running(shop.start(run, CNNJAX_CACHE="0")) as process:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
            finish(process).one_sentence(2, "could not be saved (File too large)")
        kept = earlier_are_intact(run)
        shop.go_on(run)
        return f"{kept} kept at {limit} bytes"

    return tried("a limit on a file's size, met in mid-save", trial)


def full_output(shop: Workshop) -> Row:
    """Train with a standard output that cannot be written: the training ends, with exit code 1."""

    def trial() -> str:
        run = shop.new_run("full-output")
        with Path("/dev/full").open("w") as full:
            process = subprocess.Popen(
                shop.command(run), cwd=shop.folder, env=shop.environment(), text=True, stdout=full,
                stderr=subprocess.PIPE,
            )  # fmt: skip
        with running(process):
            finish(process).one_sentence(1, "could not be written (No space left on device)")
        shop.check_same(run)
        return "exit code 1; nothing else is missing"

    return tried("a full disk under the terminal's output", trial)


def left_pipe(shop: Workshop) -> Row:
    """Train for a reader that goes after the first line, as `head -1` does."""

    def trial() -> str:
        run = shop.new_run("left-pipe")
        with running(shop.start(run)) as process:
            assert process.stdout and process.stderr
            check(process.stdout.readline().startswith("epoch "), "the first line is another")
            process.stdout.close()
            told = process.stderr.read()
            Ended(process.wait(TIMEOUT), "", told).one_sentence(1, "could not be written (Broken pipe)")
        shop.check_same(run)
        return "exit code 1; nothing else is missing"

    return tried("a reader of the terminal's output that goes", trial)


def read_only(shop: Workshop) -> Row:
    """Let the folder of checkpoints turn read-only under a run."""

    def trial() -> str:
        run = shop.new_run("read-only")
        folder = run / "checkpoints"
        with running(shop.start(run)) as process:
            wait_for(process, lambda: epochs_done(run) >= 2)
            with mounted(folder, "--bind", str(folder)):
                while subprocess.run(
                    ["mount", "-o", "remount,bind,ro", str(folder)], capture_output=True, check=False
                ).returncode:  # it is refused while a file there is open for writing
                    time.sleep(0.002)
                finish(process).one_sentence(2, "Read-only file system")
                shop.train(run).one_sentence(2, "Read-only file system")
        for path in checkpoint.list_paths(folder):
            checkpoint.open_checkpoint(path)  # what lay aside stays: nothing can be removed there
        shop.go_on(run)
        return ""

    return tried("a folder that turns read-only", trial)


def vanished(shop: Workshop) -> Row:
    """Take the folder away under a run, and bring it back."""

    def trial() -> str:
        run, away = shop.new_run("vanished"), shop.new_run("vanished-away")
        with running(shop.start(run)) as process:
            wait_for(process, lambda: epochs_done(run) >= 2)
            run.rename(away)
            finish(process).one_sentence(2)
        check(not run.exists(), "the folder was made again")
        away.rename(run)
        shop.go_on(run)
        return ""

    return tried("a folder that vanishes", trial)


def blocked(shop: Workshop, name: str) -> Row:
    """Let a file beside the checkpoints be one that cannot be written: the training ends, with exit code 1."""

    def trial() -> str:
        run = shop.new_run(f"blocked-{name}")
        with running(shop.start(run)) as process:
            wait_for(process, lambda: epochs_done(run) >= 2)
            (run / name).unlink(missing_ok=True)
            (run / name).mkdir()
            finish(process).one_sentence(1, "has finished training, but ")
        (run / name).rmdir()
        shop.go_on(run)
        return "exit code 1; the next start mends it"

    return tried(f"{name} cannot be written", trial)
