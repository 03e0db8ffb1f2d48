"""Signals at different moments: the run saves and prints the command to resume, which must lose nothing."""

import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.faults.harness import (
    LONG,
    STEPS,
    Harness,
    Row,
    check,
    epochs_done,
    finish,
    is_saving,
    running,
    wait_for,
)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LONG_EVALUATION = ("--train.eval-batch-size", 1, "--data.validation", 0.8)
"""320 evaluation batches after every 5 steps."""
OPTIONS = {"step": LONG, "evaluation": (*LONG_EVALUATION, *LONG), "compilation": (), "save": LONG}
"""Options of the runs that are signaled, by moment."""
MOMENTS = tuple(OPTIONS)
ATTEMPTS = 16


def signaled(harness: Harness, moment: str, sent: signal.Signals, number: int) -> Row:
    """Send the signal at the moment, retrying if it was missed; then run the printed command."""
    fault = f"{sent.name} during {'an' if moment == 'evaluation' else 'a'} {moment}"
    options = OPTIONS[moment]
    for attempt in range(ATTEMPTS):
        run = harness.new_run(f"signaled-{moment}-{sent.name}-{number}")
        try:
            note = trial_at(harness, run, moment, sent, options, attempt)
        except Exception as error:
            return Row(fault, 1, 0, problems=(f"{type(error).__name__}: {error}",))
        if note is not None:
            return Row(fault, 1, 1, note)
    return Row(fault, 1, 0, problems=("the moment was never hit",))


def trial_at(
    harness: Harness, run: Path, moment: str, sent: signal.Signals, options: tuple[Any, ...], attempt: int
) -> str | None:
    """Return the note for the table, or None if the signal came at another moment."""
    cold = {"CNNJAX_CACHE": "0"} if moment == "compilation" else {}
    with running(harness.start(run, *options, **cold)) as process:
        if moment == "compilation":
            reached = wait_for(process, lambda: (run / "environment.json").exists())
            time.sleep(0.3 + 0.1 * attempt)
        else:
            reached = wait_for(process, lambda: epochs_done(run) >= 2)
            if moment == "save":
                reached = reached and wait_for(process, lambda: is_saving(run), pause=0.0002)
            else:
                reached = reached and wait_for(process, lambda: not is_saving(run))
                time.sleep(0.01 * (attempt + 1))  # a few steps or evaluation batches later
        process.send_signal(sent)
        began = time.monotonic()
        ended = finish(process)
        took = time.monotonic() - began
    if not reached or ended.code == 0:  # the run had already finished
        return None
    ended.check_error(1, "interrupted; to resume: ")
    saved = [int(step) for step in re.findall(r"^saved step (\d+)", ended.out, re.MULTILINE)]
    if not hit(moment, saved, run):
        return None
    printed = ended.err.partition("to resume: ")[2].strip()
    expected = ["cd", str(harness.folder), "&&", *harness.command(run, *options)]
    check(shlex.split(printed) == expected, f"the command to resume is {printed}")
    resumed = subprocess.run(printed, shell=True, cwd="/", env=harness.environment(), capture_output=True, text=True)
    check(resumed.returncode == 0, f"the printed command: exit code {resumed.returncode}: {resumed.stderr}")
    harness.check_same(run, *options)
    return f"exited after {took:.1f} s"


def hit(moment: str, saved: list[int], run: Path) -> bool:
    """Return whether the signal came at the moment, judging by the saved steps."""
    if moment == "compilation":
        return saved in ([], [1])
    if moment == "evaluation":
        return bool(saved) and saved[-1] % 5 == 0
    if moment == "step":
        return bool(saved) and saved[-1] % STEPS != 0
    return bool(saved)


def twice(harness: Harness) -> Row:
    """Send two signals during a save: the process exits immediately and nothing is lost."""
    fault = "second signal, immediate exit"
    run = harness.new_run("signaled-twice")
    try:
        with running(harness.start(run)) as process:
            wait_for(process, lambda: is_saving(run), pause=0.0002)
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            ended = finish(process)
        check(ended.code == 1, f"exit code {ended.code}: {ended.err}")
        harness.resume(run)
    except Exception as error:
        return Row(fault, 1, 0, problems=(f"{type(error).__name__}: {error}",))
    return Row(fault, 1, 1)
