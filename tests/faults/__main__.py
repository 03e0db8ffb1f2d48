"""Break real trainings in every way that docs/reliability.md speaks of, and say what was lost.

    python -m tests.faults [--size ci|full] [--only WORD] [--seed N] [--write]

Each fault is done to scripts/train.py, run as a process on a tiny training. The table goes to standard output, and
with --write into docs/reliability.md; the exit code is 1 where anything was lost.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console

from cnnjax.ops.native.library import LIBRARY
from tests.faults import damage, disks, kills, month, others, signals
from tests.faults.workshop import ROOT, Row, Workshop

Task = Callable[[], Row | list[Row]]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def tasks(shop: Workshop, full: bool, seed: int) -> list[Task]:
    """Return what is to be done; each of these is done once, beside one other."""
    found: list[Task] = [lambda: month.month(shop, 3000 if full else 200)]
    count, chains = (100, 10) if full else (20, 4)
    found += [lambda n=n: kills.kills(shop, count // chains, seed + n) for n in range(chains)]
    for sent in signals.SENT if full else signals.SENT[:1]:
        found += [
            lambda m=moment, s=sent, n=number: signals.signalled(shop, m, s, n)
            for moment in signals.MOMENTS
            for number in range(3 if full else 1)
        ]
    found += [lambda: signals.twice(shop)]
    found += damages(shop, full, seed)
    if disks.mounts_allowed(shop.folder):
        sizes = range(420, 720, 20) if full else (500, 600)
        found += [lambda size=size: disks.full_tmpfs(shop, size) for size in sizes]
        found += [lambda: disks.read_only(shop)]
    else:
        found += [lambda: Row("a tmpfs that fills, a folder that turns read-only", 0, 0, "not done: no mounts here")]
    found += [lambda limit=limit: disks.file_size_limit(shop, limit) for limit in ((9000, 20000) if full else (9000,))]
    found += [lambda: disks.vanished(shop)]
    found += [lambda name=name: disks.blocked(shop, name) for name in ("metrics.jsonl", "curves.png")]
    found += [lambda: disks.full_output(shop), lambda: disks.left_pipe(shop)]
    found += [lambda: others.second_process(shop)]
    found += [lambda: others.lost_lock(shop)]
    found += [lambda n=n: others.two_at_once(shop, n) for n in range(5 if full else 1)]
    found += [lambda step=step: others.not_finite(shop, step) for step in ((1, 20, 21, 77, 200) if full else (33,))]
    ways = ("01" if full else "1") if LIBRARY.exists() else "0"
    found += [lambda native=native: others.out_of_memory(shop, native) for native in ways]
    found += [lambda: others.synced(shop)]
    return found


def damages(shop: Workshop, full: bool, seed: int) -> list[Task]:
    """Return the damages to every file; at the small size, to one file in seven."""
    run = damage.unfinished(shop)
    cases = [(kind, file) for file in damage.files_of(run) for kind in damage.DAMAGES]
    if not full:
        cases = random.Random(seed).sample(cases, len(cases) // 14)

    def task(number: int, kind: str, file: Path) -> Row:
        problem = damage.damaged(shop, run, file, kind, f"{seed}-{number}")
        fault = f"a checkpoint's file {kind}" if full else "a checkpoint's file damaged"
        return Row(fault, 1, int(problem is None), problems=() if problem is None else (problem,))

    found: list[Task] = [lambda n=n, k=k, f=f: task(n, k, f) for n, (k, f) in enumerate(cases)]
    return [*found, lambda: damage.all_damaged(shop, run)]


def merged(rows: list[Row]) -> list[Row]:
    """Return the rows with those of one fault put together, and the first of their notes."""
    by_fault: dict[str, list[Row]] = {}
    for row in rows:
        by_fault.setdefault(row.fault, []).append(row)
    return [
        Row(
            fault, sum(row.times for row in same), sum(row.survived for row in same),
            next((row.note for row in same if row.note), ""),
            tuple(problem for row in same for problem in row.problems),
        )
        for fault, same in by_fault.items()
    ]  # fmt: skip


def markdown(rows: list[Row], size: str, seconds: float) -> str:
    """Return the table."""
    lines = ["| fault | times | survived | lost | |", "| --- | ---: | ---: | ---: | --- |"]
    lines += [f"| {row.fault} | {row.times} | {row.survived} | {row.lost} | {row.note} |" for row in rows]
    return "\n".join([*lines, "", f"Size {size}, {seconds / 60:.0f} minutes on two CPU cores."])


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=("ci", "full"), default="full")
    parser.add_argument("--only", default="", help="only the faults whose function's name has this in it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    chosen = parser.parse_args()
    console, began = Console(stderr=True), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, ThreadPoolExecutor(2) as pool:
        shop = Workshop(Path(folder))
        shop.reference()
        todo = [task for task in tasks(shop, chosen.size == "full", chosen.seed) if chosen.only in name_of(task)]
        futures = [pool.submit(rows_of, task) for task in todo]
        for done, future in enumerate(as_completed(futures), 1):
            for row in future.result():
                told = f"[{time.monotonic() - began:5.0f} s] {done}/{len(todo)} {row.fault}: {row.survived}/{row.times}"
                console.print(f"{told} {row.note}", highlight=False, markup=False, soft_wrap=True)
                for problem in row.problems:
                    console.print(f"LOST: {problem}", style="red", highlight=False, markup=False, soft_wrap=True)
        rows = [row for future in futures for row in future.result()]
    table = markdown(merged(rows), chosen.size, time.monotonic() - began)
    print(table)
    if chosen.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
    return int(any(row.lost for row in rows))


def rows_of(task: Task) -> list[Row]:
    """Do one task."""
    found = task()
    return found if isinstance(found, list) else [found]


def name_of(task: Task) -> str:
    """Return the names that a task's code uses, by which --only chooses."""
    return " ".join(task.__code__.co_names)  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
