"""A month in small: thousands of epochs, through which memory, open files and the folder stay as they are."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.faults.disks import tried
from tests.faults.workshop import Row, Workshop, check, epochs_done, finish, running, wait_for

OPTIONS = ("--train.batch-size", 160, "--train.keep", 3)
"""Two steps an epoch, so that most of the time goes to what is done between epochs."""
LONGEST = 3600


class Look(NamedTuple):
    """What a process and its folder take."""

    epochs: int
    memory: int
    files: int
    checkpoints: int
    folder: int
    """Bytes without the metrics, whose lines in metrics.jsonl and in each checkpoint are the run's record."""
    metrics: int
    """Bytes of them."""


def look(pid: int, run: Path) -> Look:
    """Return the least of some looks: one may fall into a save, when more is open and not yet deleted."""
    looks = []
    for _ in range(8):
        looks.append(one_look(pid, run))
        time.sleep(0.05)
    return Look(looks[0].epochs, *(min(figures) for figures in zip(*(seen[1:] for seen in looks), strict=True)))


def one_look(pid: int, run: Path) -> Look:
    """Look when nothing is written aside."""
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            memory = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            found = [path for path in run.rglob("*") if path.is_file()]
            sizes = [0, 0]
            for path in found:
                sizes[path.name == "metrics.jsonl"] += path.stat().st_size
            if not any(".writing" in str(path) for path in found):
                names = len(list((run / "checkpoints").iterdir()))
                return Look(epochs_done(run), memory, files, names, *sizes)
        except FileNotFoundError:
            pass
        time.sleep(0.01)


def month(shop: Workshop, epochs: int) -> Row:
    """Train that long; look at a tenth of the way, and at the end."""

    def trial() -> str:
        run = shop.new_run("month")
        looks: list[Look] = []
        with running(shop.start(run, *OPTIONS, "--train.epochs", epochs)) as process, ThreadPoolExecutor(1) as pool:
            end = pool.submit(finish, process, LONGEST)  # from the start: a pipe holds few lines that nobody reads
            for share in (0.1, 0.4, 0.7, 0.9):
                aim = int(epochs * share)
                check(wait_for(process, lambda aim=aim: epochs_done(run) >= aim, 0.05, LONGEST), "the run ended")
                looks.append(look(process.pid, run))
            ended = end.result()
        check(ended.code == 0, f"exit code {ended.code}: {ended.err}")
        first, last = looks[0], looks[-1]
        figures = (
            f"from epoch {first.epochs:,} to {last.epochs:,}: memory {first.memory / 2**20:.0f} -> "
            f"{last.memory / 2**20:.0f} MB, open files {first.files} -> {last.files}, checkpoints "
            f"{first.checkpoints} -> {last.checkpoints}, "
            f"folder {first.folder / 1024:.0f} -> {last.folder / 1024:.0f} KB, and the metrics in it "
            f"{first.metrics / 1024:.0f} -> {last.metrics / 1024:.0f} KB"
        )
        check(last.memory < 1.1 * first.memory + 8 * 2**20, f"memory grew: {figures}")
        check(last.files <= first.files + 2, f"open files grew: {figures}")
        check(max(seen.checkpoints for seen in looks) <= 7, f"checkpoints grew: {figures}")
        check(max(seen.folder for seen in looks) < 2.5 * min(seen.folder for seen in looks), f"it grew: {figures}")
        check(epochs_done(run) == epochs, "not every epoch has its line of metrics")
        return figures

    return tried(f"a month in small: {epochs:,} epochs", trial)
