"""A signal at each kind of moment: the run saves, names the command that goes on, and that command loses nothing."""

import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.faults.workshop import (
    STEPS,
    Row,
    Workshop,
    check,
    epochs_done,
    finish,
    is_saving,
    running,
    wait_for,
)

SENT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LONG_EVALUATION = ("--train.eval-batch-size", 1, "--data.validation", 0.8)
"""320 batches to judge after 5 steps."""
MOMENTS = ("step", "evaluation", "compilation", "save")


def signalled(shop: Workshop, moment: str, sent: signal.Signals, number: int) -> Row:
    """Send the signal at the moment, a few times if it is missed; run the command that was printed."""
    fault = f"{sent.name} in a {moment}" if moment != "evaluation" else f"{sent.name} in an evaluation"
    options = LONG_EVALUATION if moment == "evaluation" else ()
    for attempt in range(8):
        run = shop.new_run(f"signalled-{moment}-{sent.name}-{number}")
        try:
            note = attempted(shop, run, moment, sent, options, attempt)
        except Exception as error:
            return Row(fault, 1, 0, problems=(f"{type(error).__name__}: {error}",))
        if note is not None:
            return Row(fault, 1, 1, note)
    return Row(fault, 1, 0, problems=("the moment was never hit",))


def attempted(
    shop: Workshop, run: Path, moment: str, sent: signal.Signals, options: tuple[Any, ...], attempt: int
) -> str | None:
    """Return what is said in the table, or None where the signal came at another moment."""
    cold = {"CNNJAX_CACHE": "0"} if moment == "compilation" else {}
    with running(shop.start(run, *options, **cold)) as process:
        if moment == "compilation":
            reached = wait_for(process, lambda: (run / "environment.json").exists())
            time.sleep(0.3 + 0.1 * attempt)
        else:
            reached = wait_for(process, lambda: epochs_done(run) >= 2)
            if moment == "save":
                reached = reached and wait_for(process, lambda: is_saving(run), pause=0.0002)
            else:
                reached = reached and wait_for(process, lambda: not is_saving(run))
                time.sleep(0.01 * (attempt + 1))
        process.send_signal(sent)
        began = time.monotonic()
        ended = finish(process)
        took = time.monotonic() - began
    if not reached or ended.code == 0:  # it was at its end already
        return None
    ended.one_sentence(1, "interrupted; to resume: ")
    saved = [int(step) for step in re.findall(r"^saved step (\d+)", ended.out, re.MULTILINE)]
    if not hit(moment, saved, run):
        return None
    printed = ended.err.partition("to resume: ")[2].strip()
    expected = ["cd", str(shop.folder), "&&", *shop.command(run, *options)]
    check(shlex.split(printed) == expected, f"the command to resume is {printed}")
    again = subprocess.run(printed, shell=True, cwd="/", env=shop.environment(), capture_output=True, text=True)
    check(again.returncode == 0, f"the printed command: exit code {again.returncode}: {again.stderr}")
    shop.check_same(run, *options)
    return f"left after {took:.1f} s"


def hit(moment: str, saved: list[int], run: Path) -> bool:
    """Return whether the signal came when it was meant to, by what was saved."""
    if moment == "compilation":
        return saved in ([], [1])
    if moment == "evaluation":
        return bool(saved) and saved[-1] % 5 == 0
    if moment == "step":
        return bool(saved) and saved[-1] % STEPS != 0
    return bool(saved)


def twice(shop: Workshop) -> Row:
    """Send a second signal while the first one is acted on: the process leaves at once, and nothing is lost."""
    fault = "a second signal, which leaves at once"
    run = shop.new_run("signalled-twice")
    try:
        with running(shop.start(run)) as process:
            wait_for(process, lambda: is_saving(run), pause=0.0002)
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            ended = finish(process)
        check(ended.code == 1, f"exit code {ended.code}: {ended.err}")
        shop.go_on(run)
    except Exception as error:
        return Row(fault, 1, 0, problems=(f"{type(error).__name__}: {error}",))
    return Row(fault, 1, 1)
