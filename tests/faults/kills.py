"""SIGKILL at random moments, mostly during saves, two to six times for each run."""

import random
import signal
import subprocess
import time
from pathlib import Path

from tests.faults.harness import Harness, Row, epochs_done, is_saving, running, wait_for

MOMENTS = {"during a save": 6, "during an epoch": 2, "at startup": 1, "during a compilation": 1, "during the report": 1}
"""Phases in which to kill the run, with their weights."""
MAX_DELAY = {
    "during a save": 0.3,
    "during an epoch": 1.0,
    "at startup": 3.0,
    "during a compilation": 1.0,
    "during the report": 3.0,
}
"""Maximum delay of the kill after the phase starts, in seconds."""
EPOCHS = 10


def kills(harness: Harness, count: int, seed: int) -> list[Row]:
    """Kill runs, two to six times each, until ``count`` kills have hit; let every run finish in the end."""
    rng = random.Random(seed)
    hits, runs = 0, 0
    rows: list[Row] = []
    while hits < count:
        runs += 1
        run = harness.new_run(f"killed-{seed}-{runs}")
        chain = min(rng.randint(2, 6), count - hits)
        history: list[str] = []
        moments: list[str] = []
        try:
            for _ in range(chain):
                moment = rng.choices(list(MOMENTS), weights=list(MOMENTS.values()))[0]
                if not killed(harness, run, moment, rng, history):
                    break
                moments.append(moment)
            harness.resume(run)
            problems: tuple[str, ...] = ()
        except Exception as error:
            problems = (f"seed {seed}, run {runs}, {history}: {type(error).__name__}: {error}",)
        hits += len(moments) or bool(problems)
        # A loss is attributed to the last kill of its run.
        lost = [bool(problems) and number == len(moments) - 1 for number in range(len(moments))]
        rows += [
            Row(f"SIGKILL {moment}", 1, int(not bad), problems=problems if bad else ())
            for moment, bad in zip(moments, lost, strict=True)
        ]
        if problems and not moments:
            rows.append(Row("SIGKILL", 1, 0, problems=problems))
    return rows


def killed(harness: Harness, run: Path, moment: str, rng: random.Random, history: list[str]) -> bool:
    """Start the run and kill it; return False if it ended before the kill."""
    before = epochs_done(run)
    cold = {"CNNJAX_CACHE": "0"} if moment == "during a compilation" else {}
    with running(harness.start(run, **cold)) as process:
        reached = reach(process, run, moment, before, rng)
        delay = MAX_DELAY[moment] * rng.random()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        history.append(f"{moment} after {before} epochs + {delay:.3f} s")
        return reached and process.returncode == -signal.SIGKILL


def reach(process: "subprocess.Popen[str]", run: Path, moment: str, before: int, rng: random.Random) -> bool:
    """Wait for the moment; return False if the run ends first."""
    if moment == "at startup":
        return True
    if moment == "during the report":
        return wait_for(process, lambda: epochs_done(run) >= EPOCHS)
    entries = (run / "environment.json").stat().st_size if (run / "environment.json").exists() else 0
    compiling = wait_for(
        process, lambda: (run / "environment.json").exists() and (run / "environment.json").stat().st_size > entries
    )
    if not compiling or moment == "during a compilation":
        return compiling
    after = before + rng.randint(0, 2)
    if not wait_for(process, lambda: epochs_done(run) >= min(after, EPOCHS)):
        return False
    return moment == "during an epoch" or wait_for(process, lambda: is_saving(run), pause=0.0002)
