"""Two processes in one folder, a loss that is not finite, too little memory, and the order of syncs."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from cnnjax import checkpoint
from cnnjax.system import memory
from tests.faults.disks import earlier_are_intact, tried
from tests.faults.workshop import (
    ROOT,
    STEPS,
    Ended,
    Lost,
    Row,
    Workshop,
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
"""An experiment file is code of the user's, and this one spoils the parameters before a step of its choice."""
SHORT = ("--train.epochs", 2)
TRIES = 5


def second_process(shop: Workshop) -> Row:
    """Start a second process in the folder of a first one."""

    def trial() -> str:
        run = shop.new_run("shared")
        with running(shop.start(run)) as first:
            wait_for(first, lambda: epochs_done(run) >= 1)
            first.send_signal(signal.SIGSTOP)  # so that it does not end before the second one has begun
            shop.train(run).one_sentence(2, f"another process (pid {first.pid} on host ")
            first.send_signal(signal.SIGCONT)
            check(finish(first).code == 0, "the first process was disturbed")
        shop.check_same(run)
        return "the second is told the pid and host of the first"

    return tried("a second process in the folder", trial)


def lost_lock(shop: Workshop) -> Row:
    """Delete the lock under a first process, and let a second one in."""

    def trial() -> str:
        run = shop.new_run("lost-lock")
        with running(shop.start(run)) as first:
            wait_for(first, lambda: epochs_done(run) >= 2)
            first.send_signal(signal.SIGSTOP)
            (run / ".lock").unlink()
            with running(shop.start(run)) as second:
                wait_for(second, lambda: (run / ".lock").exists())
                first.send_signal(signal.SIGCONT)
                finish(first).one_sentence(2, "was moved, deleted or replaced while this process held it")
                ended = finish(second)
        check(ended.code == 0, f"the second process was disturbed: exit code {ended.code}: {ended.err}")
        shop.check_same(run)
        return "the first one ends, the second one goes on"

    return tried("the lock deleted under a process, and a second one", trial)


def two_at_once(shop: Workshop, number: int) -> Row:
    """Start two processes in one new folder at the same moment."""

    def trial() -> str:
        run = shop.new_run(f"raced-{number}")
        with running(shop.start(run)) as one, running(shop.start(run)) as other:
            ended = [finish(one), finish(other)]
        codes = sorted(end.code for end in ended)
        check(codes in ([0, 2], [0, 0]), f"exit codes {codes}: {[end.err for end in ended]}")  # 0, 0: one after another
        shop.check_same(run)
        return ""

    return tried("two processes started at once", trial)


def not_finite(shop: Workshop, step: int) -> Row:
    """Spoil the parameters before a step: exit code 3, no checkpoint of it, and the best one as it was."""

    def trial() -> str:
        run = shop.new_run(f"poisoned-{step}")
        poisoned = shop.folder / "poisoned.py"
        poisoned.write_text(POISON + shop.experiment.read_text())
        command = [str(poisoned) if part == str(shop.experiment) else part for part in shop.command(run)]
        process = subprocess.Popen(
            command, cwd=shop.folder, env=shop.environment(POISONED_STEP=str(step)), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        ended = finish(process)
        ended.one_sentence(3, f"not finite at step {step} ")
        earlier_are_intact(run)
        newest = checkpoint.newest_step(run / "checkpoints")
        check(newest == (step - 1) // STEPS * STEPS, f"the newest checkpoint is of step {newest}")
        again = subprocess.run(command, cwd=shop.folder, env=shop.environment(), capture_output=True, text=True)
        check(again.returncode == 0, f"without the NaN: exit code {again.returncode}: {again.stderr}")
        shop.check_same(run)
        return ""

    return tried("a NaN at a step", trial)


def out_of_memory(shop: Workshop, native: str) -> Row:
    """Train with a batch that the memory allowed to the process does not hold; then with the one that is advised.

    Under a limit on a process's address space any allocation may fail, those of XLA and of the system too, which end
    the process without a sentence, or say a word of their own. Such a try is made again, and is told of.
    """

    def train(batch_size: int) -> Ended:
        options = (
            "lenet_mini", "--model", "resnet20_cifar", "--train.batch-size", batch_size, "--train.epochs", 1,
            "--out", shop.new_run(f"short-of-memory-{native}-{batch_size}"),
        )  # fmt: skip
        limited = Path(__file__).parent / "limited.py"
        command = [sys.executable, str(limited), "2800", str(ROOT / "scripts" / "train.py"), *map(str, options)]
        # The allocator's settings are given, since a process that began again would be given its limit again, too.
        environment = shop.environment(CNNJAX_NATIVE=native, **{memory.VARIABLE: memory.ASKED_FOR})
        ended = subprocess.run(command, cwd=shop.folder, capture_output=True, text=True, env=environment)
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def trial() -> str:
        for others in range(TRIES):
            ended = train(9000)
            if ended.code == -signal.SIGABRT or "allocate of <" in ended.err:
                continue
            ended.one_sentence(2, "out of memory in a training step with train.batch_size 9000; ", " fits (tried)")
            advised = int(ended.err.partition("9000; ")[2].partition(" ")[0])
            again = train(advised)
            if again.code == -signal.SIGABRT:
                continue
            check(again.code == 0, f"with the advised {advised}: exit code {again.code}: {again.err}")
            more = f"; {others} more met an allocation of XLA's own" if others else ""
            return f"of 9,000 images {advised:,} are said to fit, and do{more}"
        raise Lost(f"{TRIES} tries in a row met an allocation of XLA's own")

    return tried("out of memory (a limit on the process)", trial)


def synced(shop: Workshop) -> Row:
    """Follow a training's system calls: every file and folder is synced before the line that says saved."""
    fault = "fsync before the line that says saved (strace)"
    if not shutil.which("strace"):
        return Row(fault, 0, 0, "not done: there is no strace here")
    trace = shop.folder / "trace"
    seen = ["strace", "-f", "-y", "-s", "400", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2,write,openat",
            "-o", str(trace)]  # fmt: skip

    def trial() -> str:
        run = shop.new_run("traced") / "deeper" / "run"  # two folders that are not there yet
        command = [*seen, *shop.command(run, *SHORT)]
        ended = subprocess.run(command, cwd=shop.folder, env=shop.environment(), capture_output=True, text=True)
        if "PTRACE" in ended.stderr or "ptrace" in ended.stderr:
            raise RuntimeError(f"strace is not allowed here: {ended.stderr[:200]}")
        check(ended.returncode == 0, f"exit code {ended.returncode}: {ended.stderr[-500:]}")
        return order_of_syncs(trace.read_text(errors="replace").splitlines(), run)

    return tried(fault, trial)


def order_of_syncs(lines: list[str], run: Path) -> str:
    """Check each line of the trace that says saved against what was synced before it; return what was found."""
    fsyncs: dict[str, int] = {}
    renames: dict[str, int] = {}
    saved = 0
    for number, line in enumerate(lines):
        if found := re.search(r"f(?:data)?sync\(\d+<([^>]*)>", line):
            fsyncs[found[1]] = number
        elif found := re.search(r'rename\w*\(.*"([^"]*\.writing)",.*"([^"]*)"', line):
            renames[found[2]] = number
        elif re.search(r"write\(1<.*saved", line):
            saved += 1
            path = run / "checkpoints" / f"step-{saved * STEPS:08d}"
            aside = path.parent / f".{path.name}.writing"
            check(str(path) in renames, f"{path.name} had not its name when it was said to be saved")
            for file in [path, *path.rglob("*")]:
                name = str(aside / file.relative_to(path)) if file != path else str(aside)
                check(fsyncs.get(name, len(lines)) < renames[str(path)], f"{name} was not synced before its name")
            for folder in (run.parent.parent, run.parent, run, path.parent):
                check(folder.as_posix() in fsyncs, f"{folder} was not synced")
            check(fsyncs[str(path.parent)] > renames[str(path)], "the name was not synced")
    check(saved == 2, f"{saved} lines say saved")
    return f"{len(fsyncs)} files and folders synced"
