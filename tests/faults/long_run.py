"""Thousands of epochs, during which memory, open files and the run folder must not grow."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.faults.disks import run_trial
from tests.faults.harness import Harness, Row, check, epochs_done, finish, running, wait_for

OPTIONS = ("--train.batch-size", 160, "--train.keep", 3)
"""Two steps an epoch, so that most of the time is spent between epochs."""
TIMEOUT = 3600


class Usage(NamedTuple):
    """Resources that a process and its run folder use."""

    epochs: int
    memory: int
    files: int
    checkpoints: int
    folder: int
    """Bytes without the metrics, which grow by design."""
    metrics: int
    """Bytes of metrics, in metrics.jsonl and in each checkpoint."""


def measure(pid: int, run: Path) -> Usage:
    """Return the minimum of several measurements, because usage is higher during a save."""
    usages = []
    for _ in range(8):
        usages.append(measure_once(pid, run))
        time.sleep(0.05)
    return Usage(usages[0].epochs, *(min(figures) for figures in zip(*(usage[1:] for usage in usages), strict=True)))


def measure_once(pid: int, run: Path) -> Usage:
    """Measure while no file is being written."""
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            memory = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            files_in_run = [path for path in run.rglob("*") if path.is_file()]
            sizes = [0, 0]
            for path in files_in_run:
                sizes[path.name == "metrics.jsonl"] += path.stat().st_size
            if not any(".writing" in str(path) for path in files_in_run):
                names = len(list((run / "checkpoints").iterdir()))
                return Usage(epochs_done(run), memory, files, names, *sizes)
        except FileNotFoundError:
            pass
        time.sleep(0.01)


def long_run(harness: Harness, epochs: int) -> Row:
    """Train and compare resource usage at a tenth of the training with that at nine tenths."""

    def trial() -> str:
        run = harness.new_run("long-run")
        usages: list[Usage] = []
        with running(harness.start(run, *OPTIONS, "--train.epochs", epochs)) as process, ThreadPoolExecutor(1) as pool:
            end = pool.submit(finish, process, TIMEOUT)  # read from the start: a full pipe would block
            for share in (0.1, 0.4, 0.7, 0.9):
                aim = int(epochs * share)
                check(wait_for(process, lambda aim=aim: epochs_done(run) >= aim, 0.05, TIMEOUT), "the run ended early")
                usages.append(measure(process.pid, run))
            ended = end.result()
        check(ended.code == 0, f"exit code {ended.code}: {ended.err}")
        first, last = usages[0], usages[-1]
        figures = (
            f"from epoch {first.epochs:,} to {last.epochs:,}: memory {first.memory / 2**20:.0f} -> "
            f"{last.memory / 2**20:.0f} MB, open files {first.files} -> {last.files}, checkpoints "
            f"{first.checkpoints} -> {last.checkpoints}, "
            f"folder {first.folder / 1024:.0f} -> {last.folder / 1024:.0f} KB, metrics "
            f"{first.metrics / 1024:.0f} -> {last.metrics / 1024:.0f} KB"
        )
        check(last.memory < 1.1 * first.memory + 8 * 2**20, f"memory grew: {figures}")
        check(last.files <= first.files + 2, f"open files grew: {figures}")
        check(max(usage.checkpoints for usage in usages) <= 7, f"checkpoints grew: {figures}")
        folders = [usage.folder for usage in usages]
        check(max(folders) < 2.5 * min(folders), f"the folder grew: {figures}")
        check(epochs_done(run) == epochs, "some epochs have no line of metrics")
        return figures

    return run_trial(f"long run: {epochs:,} epochs", trial)
