"""Two processes in one folder, a loss that is not finite, too little memory, and the order of syncs."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from cnnjax import checkpoint
from cnnjax.system import memory
from tests.faults.disks import check_intact, run_trial
from tests.faults.harness import (
    ROOT,
    STEPS,
    Completed,
    GuaranteeBroken,
    Harness,
    Row,
    check,
    epochs_done,
    finish,
    running,
    wait_for,
)

POISON = """
import os
import jax
import jax.numpy as jnp
from cnnjax.training import loop

_make = loop.make_dispatch


def make_dispatch(*arguments):
    dispatch = _make(*arguments)

    def call(state, *rest, **options):
        if int(state.step) + 1 == int(os.environ.get("POISONED_STEP", "-1")):
            state = state._replace(params=jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), state.params))
        return dispatch(state, *rest, **options)

    return call


loop.make_dispatch = make_dispatch
"""
"""Start of an experiment file that sets the parameters to NaN before a step."""
SHORT = ("--train.epochs", 2)
MAX_TRIALS = 5


def second_process(harness: Harness) -> Row:
    """Start a second process in the same folder."""

    def trial() -> str:
        run = harness.new_run("shared")
        with running(harness.start(run)) as first:
            wait_for(first, lambda: epochs_done(run) >= 1)
            first.send_signal(signal.SIGSTOP)  # so that it does not end before the second one starts
            harness.train(run).check_error(2, f"another process (pid {first.pid} on host ")
            first.send_signal(signal.SIGCONT)
            check(finish(first).code == 0, "the first process was disturbed")
        harness.check_same(run)
        return "the second process reports the pid and host of the first"

    return run_trial("second process in the same folder", trial)


def lost_lock(harness: Harness) -> Row:
    """Delete the lock of a running process and start a second one."""

    def trial() -> str:
        run = harness.new_run("lost-lock")
        with running(harness.start(run)) as first:
            wait_for(first, lambda: epochs_done(run) >= 2)
            first.send_signal(signal.SIGSTOP)
            (run / ".lock").unlink()
            with running(harness.start(run)) as second:
                wait_for(second, lambda: (run / ".lock").exists())
                first.send_signal(signal.SIGCONT)
                finish(first).check_error(2, "was moved, deleted or replaced, so another process may be")
                ended = finish(second)
        check(ended.code == 0, f"the second process was disturbed: exit code {ended.code}: {ended.err}")
        harness.check_same(run)
        return "the first process exits, the second continues"

    return run_trial("lock deleted, second process started", trial)


def two_at_once(harness: Harness, number: int) -> Row:
    """Start two processes in one new folder at the same moment."""

    def trial() -> str:
        run = harness.new_run(f"raced-{number}")
        with running(harness.start(run)) as one, running(harness.start(run)) as other:
            ended = [finish(one), finish(other)]
        codes = sorted(end.code for end in ended)
        check(codes in ([0, 2], [0, 0]), f"exit codes {codes}: {[end.err for end in ended]}")  # 0, 0: one after another
        harness.check_same(run)
        return ""

    return run_trial("two processes started at once", trial)


def not_finite(harness: Harness, step: int) -> Row:
    """Set the parameters to NaN before a step: exit code 3, no new checkpoint, the best one unchanged."""

    def trial() -> str:
        run = harness.new_run(f"poisoned-{step}")
        poisoned = harness.folder / "poisoned.py"
        poisoned.write_text(POISON + harness.experiment.read_text())
        ended = finish(harness.start(run, experiment=poisoned, POISONED_STEP=str(step)))
        ended.check_error(3, f"not finite at step {step} ")
        check_intact(run)
        newest = checkpoint.newest_step(run / "checkpoints")
        check(newest == (step - 1) // STEPS * STEPS, f"the newest checkpoint is of step {newest}")
        rerun = finish(harness.start(run, experiment=poisoned))
        check(rerun.code == 0, f"without the NaN: exit code {rerun.code}: {rerun.err}")
        harness.check_same(run)
        return ""

    return run_trial("NaN at a step", trial)


def out_of_memory(harness: Harness, native: str) -> Row:
    """Train with a batch that exceeds the memory limit of the process; then with the size that the error suggests.

    Under an address space limit, small allocations of XLA and of the system may fail too, and end the process without
    our error message. Such a trial is repeated and counted in the note.
    """

    def train(batch_size: int) -> Completed:
        options = (
            "lenet_mini", "--model", "resnet20_cifar", "--train.batch-size", batch_size, "--train.epochs", 1,
            "--out", harness.new_run(f"short-of-memory-{native}-{batch_size}"),
        )  # fmt: skip
        limited = Path(__file__).parent / "limited.py"
        command = [sys.executable, str(limited), "2800", str(ROOT / "scripts" / "train.py"), *map(str, options)]
        # With the allocator's settings in place, the process does not restart, which would add its limit a second time.
        environment = harness.environment(CNNJAX_NATIVE=native, **{memory.VARIABLE: memory.ASKED_FOR})
        ended = subprocess.run(command, cwd=harness.folder, capture_output=True, text=True, env=environment)
        return Completed(ended.returncode, ended.stdout, ended.stderr)

    def trial() -> str:
        for failures in range(MAX_TRIALS):
            ended = train(9000)
            if ended.code == -signal.SIGABRT or "allocate of <" in ended.err:
                continue
            ended.check_error(2, "out of memory in a training step with train.batch_size 9000; ", " fits (tried)")
            advised = int(ended.err.partition("9000; ")[2].partition(" ")[0])
            rerun = train(advised)
            if rerun.code == -signal.SIGABRT:
                continue
            check(rerun.code == 0, f"with the advised {advised}: exit code {rerun.code}: {rerun.err}")
            note = f"; {failures} trials failed in XLA's own allocations" if failures else ""
            return f"batch size 9,000 fails, the suggested {advised:,} fits{note}"
        raise GuaranteeBroken(f"{MAX_TRIALS} trials in a row failed in XLA's own allocations")

    return run_trial("out of memory (limit on the process)", trial)


def sync_order(harness: Harness) -> Row:
    """Trace a training run's system calls: every file and folder must be synced before `saved` is printed."""
    fault = "fsync before `saved` is printed (strace)"
    if not shutil.which("strace"):
        return Row(fault, 0, 0, "skipped: strace is not installed")
    trace = harness.folder / "trace"
    strace = ["strace", "-f", "-y", "-s", "400", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2,write,openat",
            "-o", str(trace)]  # fmt: skip

    def trial() -> str:
        run = harness.new_run("traced") / "deeper" / "run"  # two new parent folders
        command = [*strace, *harness.command(run, *SHORT)]
        ended = subprocess.run(command, cwd=harness.folder, env=harness.environment(), capture_output=True, text=True)
        if "PTRACE" in ended.stderr or "ptrace" in ended.stderr:
            raise RuntimeError(f"strace is not allowed here: {ended.stderr[:200]}")
        check(ended.returncode == 0, f"exit code {ended.returncode}: {ended.stderr[-500:]}")
        return check_sync_order(trace.read_text(errors="replace").splitlines(), run)

    return run_trial(fault, trial)


def check_sync_order(lines: list[str], run: Path) -> str:
    """Check that everything is synced before each `saved` in the trace; return a summary."""
    fsyncs: dict[str, int] = {}
    renames: dict[str, int] = {}
    saved = 0
    for number, line in enumerate(lines):
        if match := re.search(r"f(?:data)?sync\(\d+<([^>]*)>", line):
            fsyncs[match[1]] = number
        elif match := re.search(r'rename\w*\(.*"([^"]*\.writing)",.*"([^"]*)"', line):
            renames[match[2]] = number
        elif re.search(r"write\(1<.*saved", line):
            saved += 1
            path = run / "checkpoints" / f"step-{saved * STEPS:08d}"
            temporary = path.parent / f".{path.name}.writing"
            check(str(path) in renames, f"{path.name} was reported as saved before it was renamed")
            for file in [path, *path.rglob("*")]:
                name = str(temporary / file.relative_to(path)) if file != path else str(temporary)
                check(fsyncs.get(name, len(lines)) < renames[str(path)], f"{name} was not synced before the rename")
            for folder in (run.parent.parent, run.parent, run, path.parent):
                check(folder.as_posix() in fsyncs, f"{folder} was not synced")
            check(fsyncs[str(path.parent)] > renames[str(path)], "the rename was not synced")
    check(saved == 2, f"{saved} lines end in saved, not 2")
    return f"{len(fsyncs)} files and folders synced"
