"""SIGKILL at random moments, weighted to saves, two and more in a row on the same run."""

import random
import signal
import subprocess
import time
from pathlib import Path

from tests.faults.workshop import Row, Workshop, epochs_done, is_saving, running, wait_for

MOMENTS = {"save": 6, "anywhere": 2, "start": 1, "compilation": 1, "end": 1}
"""When to kill, and with what weight."""
EPOCHS = 10


def kills(shop: Workshop, count: int, seed: int) -> Row:
    """Kill runs until ``count`` kills have hit, each run two to six times, and let every run end."""
    rng = random.Random(seed)
    hits, problems, told = 0, [], dict.fromkeys(MOMENTS, 0)
    runs = 0
    while hits < count:
        runs += 1
        run = shop.new_run(f"killed-{seed}-{runs}")
        chain = min(rng.randint(2, 6), count - hits)
        story: list[str] = []
        try:
            for _ in range(chain):
                moment = rng.choices(list(MOMENTS), weights=list(MOMENTS.values()))[0]
                if not killed(shop, run, moment, rng, story):
                    break
                hits += 1
                told[moment] += 1
            shop.go_on(run)
        except Exception as error:
            problems.append(f"seed {seed}, run {runs}, {story}: {type(error).__name__}: {error}")
    note = ", ".join(f"{number} in {name}" for name, number in told.items())
    return Row("SIGKILL at random moments", hits, hits - len(problems), f"{runs} runs: {note}", tuple(problems))


def killed(shop: Workshop, run: Path, moment: str, rng: random.Random, story: list[str]) -> bool:
    """Start the run and kill it; return False where it ended before."""
    before = epochs_done(run)
    cold = {"CNNJAX_CACHE": "0"} if moment == "compilation" else {}
    with running(shop.start(run, **cold)) as process:
        reached = reach(process, run, moment, before, rng)
        delay = {"save": 0.06, "anywhere": 1.0, "start": 3.0, "compilation": 1.0, "end": 3.0}[moment] * rng.random()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        story.append(f"{moment} after {before} epochs + {delay:.3f} s")
        return reached and process.returncode == -signal.SIGKILL


def reach(process: "subprocess.Popen[str]", run: Path, moment: str, before: int, rng: random.Random) -> bool:
    """Wait for the moment."""
    if moment == "start":
        return True
    if moment == "end":
        return wait_for(process, lambda: epochs_done(run) >= EPOCHS)
    entries = (run / "environment.json").stat().st_size if (run / "environment.json").exists() else 0
    begun = wait_for(
        process, lambda: (run / "environment.json").exists() and (run / "environment.json").stat().st_size > entries
    )
    if not begun or moment == "compilation":
        return begun
    after = before + rng.randint(0, 2)
    if not wait_for(process, lambda: epochs_done(run) >= min(after, EPOCHS)):
        return False
    return moment == "anywhere" or wait_for(process, lambda: is_saving(run), pause=0.0002)
