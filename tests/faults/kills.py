"""SIGKILL at random moments, weighted to saves, two and more in a row on the same run."""

import random
import signal
import subprocess
import time
from pathlib import Path

from tests.faults.workshop import Row, Workshop, epochs_done, is_saving, running, wait_for

MOMENTS = {"in a save": 6, "in an epoch": 2, "in the start": 1, "in a compilation": 1, "in the report": 1}
"""When to kill, and with what weight."""
LATEST = {"in a save": 0.3, "in an epoch": 1.0, "in the start": 3.0, "in a compilation": 1.0, "in the report": 3.0}
"""Up to how many seconds after its begin."""
EPOCHS = 10


def kills(shop: Workshop, count: int, seed: int) -> list[Row]:
    """Kill runs until ``count`` kills have hit, each run two to six times, and let every run end."""
    rng = random.Random(seed)
    hits, runs = 0, 0
    rows: list[Row] = []
    while hits < count:
        runs += 1
        run = shop.new_run(f"killed-{seed}-{runs}")
        chain = min(rng.randint(2, 6), count - hits)
        story: list[str] = []
        moments: list[str] = []
        try:
            for _ in range(chain):
                moment = rng.choices(list(MOMENTS), weights=list(MOMENTS.values()))[0]
                if not killed(shop, run, moment, rng, story):
                    break
                moments.append(moment)
            shop.go_on(run)
            problems: tuple[str, ...] = ()
        except Exception as error:
            problems = (f"seed {seed}, run {runs}, {story}: {type(error).__name__}: {error}",)
        hits += len(moments) or bool(problems)
        # Of a run that lost something, the last kill is to blame until the problem says otherwise.
        lost = [bool(problems) and number == len(moments) - 1 for number in range(len(moments))]
        rows += [
            Row(f"SIGKILL, {moment}", 1, int(not bad), problems=problems if bad else ())
            for moment, bad in zip(moments, lost, strict=True)
        ]
        if problems and not moments:
            rows.append(Row("SIGKILL", 1, 0, problems=problems))
    return rows


def killed(shop: Workshop, run: Path, moment: str, rng: random.Random, story: list[str]) -> bool:
    """Start the run and kill it; return False where it ended before."""
    before = epochs_done(run)
    cold = {"CNNJAX_CACHE": "0"} if moment == "in a compilation" else {}
    with running(shop.start(run, **cold)) as process:
        reached = reach(process, run, moment, before, rng)
        delay = LATEST[moment] * rng.random()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        story.append(f"{moment} after {before} epochs + {delay:.3f} s")
        return reached and process.returncode == -signal.SIGKILL


def reach(process: "subprocess.Popen[str]", run: Path, moment: str, before: int, rng: random.Random) -> bool:
    """Wait for the moment."""
    if moment == "in the start":
        return True
    if moment == "in the report":
        return wait_for(process, lambda: epochs_done(run) >= EPOCHS)
    entries = (run / "environment.json").stat().st_size if (run / "environment.json").exists() else 0
    begun = wait_for(
        process, lambda: (run / "environment.json").exists() and (run / "environment.json").stat().st_size > entries
    )
    if not begun or moment == "in a compilation":
        return begun
    after = before + rng.randint(0, 2)
    if not wait_for(process, lambda: epochs_done(run) >= min(after, EPOCHS)):
        return False
    return moment == "in an epoch" or wait_for(process, lambda: is_saving(run), pause=0.0002)
