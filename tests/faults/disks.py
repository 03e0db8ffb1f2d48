"""Disks that become full or read-only during a run, and folders that are moved away."""

import contextlib
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cnnjax import checkpoint
from tests.faults.harness import LONG, TIMEOUT, Completed, Harness, Row, check, epochs_done, finish, running, wait_for


def mounts_allowed(folder: Path) -> bool:
    """Return whether this process may mount file systems."""
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


def check_intact(run: Path) -> int:
    """Check that all checkpoints are intact and complete; return their number."""
    paths = checkpoint.list_paths(run / "checkpoints")
    for path in paths:
        checkpoint.open_checkpoint(path)
    left = [path.name for path in run.rglob("*.writing")]
    check(not left, f"left behind: {left}")
    return len(paths)


def run_trial(fault: str, trial: Callable[[], str]) -> Row:
    try:
        return Row(fault, 1, 1, trial())
    except Exception as error:
        return Row(fault, 1, 0, problems=(f"{type(error).__name__}: {error}",))


def full_tmpfs(harness: Harness, kilobytes: int) -> Row:
    """Train on a file system that becomes full during a save; then enlarge it and resume."""
    place = harness.folder / f"tmpfs-{kilobytes}"

    def trial() -> str:
        run = place / "run"
        with mounted(place, "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs"):
            harness.train(run).check_error(2, "could not be saved (No space left on device)")
            kept = check_intact(run)
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], capture_output=True, check=True)
            harness.resume(run)
        return f"{kept} checkpoint{'s' * (kept != 1)} kept at {kilobytes} KB"

    return run_trial("tmpfs full during a save", trial)


def file_size_limit(harness: Harness, limit: int) -> Row:
    """Train with a file size limit that a save exceeds; then resume without the limit."""

    def trial() -> str:
        run = harness.new_run(f"limited-{limit}")
        with running(harness.start(run)) as process:
            wait_for(process, lambda: epochs_done(run) >= 3)
        with running(harness.start(run, CNNJAX_CACHE="0")) as process:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
            finish(process).check_error(2, "could not be saved (File too large)")
        kept = check_intact(run)
        harness.resume(run)
        return f"{kept} checkpoint{'s' * (kept != 1)} kept at {limit} bytes"

    return run_trial("file size limit exceeded during a save", trial)


def full_output(harness: Harness) -> Row:
    """Train with an unwritable standard output: training completes with exit code 1."""

    def trial() -> str:
        run = harness.new_run("full-output")
        with Path("/dev/full").open("w") as full:
            process = subprocess.Popen(
                harness.command(run), cwd=harness.folder, env=harness.environment(), text=True, stdout=full,
                stderr=subprocess.PIPE,
            )  # fmt: skip
        with running(process):
            finish(process).check_error(1, "could not be written (No space left on device)")
        harness.check_same(run)
        return "exit code 1; nothing else is missing"

    return run_trial("standard output on a full disk", trial)


def closed_pipe(harness: Harness) -> Row:
    """Train with a reader that exits before the first line, like `head -0`. (Later, the run may have ended.)"""

    def trial() -> str:
        run = harness.new_run("closed-pipe")
        with running(harness.start(run)) as process:
            assert process.stdout and process.stderr
            process.stdout.close()
            errors = process.stderr.read()
            Completed(process.wait(TIMEOUT), "", errors).check_error(1, "could not be written (Broken pipe)")
        harness.check_same(run)
        return "exit code 1; nothing else is missing"

    return run_trial("reader of standard output exits", trial)


def read_only(harness: Harness) -> Row:
    """Make the checkpoint folder read-only during a run."""

    def trial() -> str:
        run = harness.new_run("read-only")
        folder = run / "checkpoints"
        with running(harness.start(run, *LONG)) as process:
            wait_for(process, lambda: epochs_done(run) >= 2)
            with mounted(folder, "--bind", str(folder)):
                while subprocess.run(
                    ["mount", "-o", "remount,bind,ro", str(folder)], capture_output=True, check=False
                ).returncode:  # fails while a file in the folder is open for writing
                    time.sleep(0.002)
                finish(process).check_error(2, "Read-only file system")
                harness.train(run, *LONG).check_error(2, "Read-only file system")
        for path in checkpoint.list_paths(folder):
            checkpoint.open_checkpoint(path)  # temporary folders remain, because nothing can be removed
        harness.resume(run, *LONG)
        return ""

    return run_trial("checkpoint folder becomes read-only", trial)


def folder_moved(harness: Harness) -> Row:
    """Move the run folder away during a run; then move it back and resume."""

    def trial() -> str:
        run, away = harness.new_run("moved"), harness.new_run("moved-away")
        with running(harness.start(run, *LONG)) as process:
            wait_for(process, lambda: epochs_done(run) >= 2)
            run.rename(away)
            finish(process).check_error(2)
        check(not run.exists(), "the folder was recreated")
        away.rename(run)
        harness.resume(run, *LONG)
        return ""

    return run_trial("run folder moved away", trial)


def unwritable(harness: Harness, name: str) -> Row:
    """Make a file next to the checkpoints unwritable: training completes with exit code 1."""

    def trial() -> str:
        run = harness.new_run(f"unwritable-{name}")
        with running(harness.start(run, *LONG)) as process:
            wait_for(process, lambda: epochs_done(run) >= 2)
            (run / name).unlink(missing_ok=True)
            (run / name).mkdir()
            finish(process).check_error(1, "has finished training, but ")
        (run / name).rmdir()
        harness.resume(run, *LONG)
        return "exit code 1; the next start repairs it"

    return run_trial(f"{name} cannot be written", trial)
