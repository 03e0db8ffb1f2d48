"""Damaged files of every format to the functions that read them: each must be read, or refused by a UserError.

    python -m tests.hostile.fuzz --count 10000 --seed 0
    python -m tests.hostile.fuzz --seed 0 --only h5 --index 17      one input again, with its traceback

Anything else is a finding: another exception, a crash, more than 10 seconds, more memory than the format may take, a
file written. Each format is read in a process of its own, so that a crash or a hang in a library's C code is one too.
"""

import argparse
import collections
import contextlib
import itertools
import os
import random
import selectors
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.hostile.mutations import mutate

SECONDS_EACH = 10
SECONDS_SILENT, SECONDS_TO_START = 60, 600
"""How long a process may say nothing, between two inputs and before its first, since it imports JAX."""
INPUTS_EACH = 5000
"""How many inputs one process reads: what a library leaks in C code must not add up to a finding."""
GOOD = {"read", "refused"}
ROOT = Path(__file__).resolve().parents[2]


class TooLong(BaseException):
    """Not an Exception: what is read must not take it for damage."""


class Input(NamedTuple):
    """One damaged file: a function of the seed and of these."""

    name: str
    index: int


def main() -> int:
    """Fuzz, print the table, return 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="inputs over all formats")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one format")
    parser.add_argument("--index", type=int, help="one input of that format, shown with its traceback")
    parser.add_argument("--workers", type=int, default=2, help="processes at once")
    parser.add_argument("--part", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only and options.index is not None:
        return show_one(Input(options.only, options.index), options.seed)
    inputs = plan(options.count, options.only)
    if options.part:
        run_part(inputs, options.seed, *options.part)
        return 0
    bounds = [len(inputs) * n // options.workers for n in range(options.workers + 1)]
    with ThreadPoolExecutor(options.workers) as pool:
        parts = pool.map(lambda part: list(outcomes(*part)), itertools.pairwise(bounds))
        found = [outcome for part in parts for outcome in part]
    print_table(inputs, found, options.seed)
    return 0 if set(found) <= GOOD else 1


def plan(count: int, only: str | None) -> list[Input]:
    """Return the inputs of all formats, or of one, by their shares."""
    from tests.hostile.formats import FORMATS

    shares = {name: kind.share for name, kind in FORMATS.items() if only in (None, name)}
    counts = {name: -int(-count * share // sum(shares.values())) for name, share in shares.items()}
    return [Input(name, index) for name, number in counts.items() for index in range(number)]


def print_table(inputs: list[Input], found: list[str], seed: int) -> None:
    """Print a line for each format, the sums, and every finding with the command that shows it."""
    tallies = {name: collections.Counter[str]() for name in [*(one.name for one in inputs), "all"]}
    for one, outcome in zip(inputs, found, strict=True):
        for name in (one.name, "all"):
            tallies[name][outcome if outcome in GOOD else "findings"] += 1
    print(f"{'format':<16} {'inputs':>7} {'read':>7} {'refused':>8} {'findings':>9}")
    for name, metrics in tallies.items():
        print(f"{name:<16} {metrics.total():>7} {metrics['read']:>7} {metrics['refused']:>8} {metrics['findings']:>9}")
    for one, outcome in zip(inputs, found, strict=True):
        if outcome not in GOOD:
            print(f"python -m tests.hostile.fuzz --seed {seed} --only {one.name!r} --index {one.index}: {outcome}")


def outcomes(start: int, stop: int) -> Iterator[str]:
    """Yield what came of the inputs ``start`` to ``stop``, read in a child process, a new one after each crash."""
    while start < stop:
        for line in lines_of_child(start, min(stop, start + INPUTS_EACH)):
            yield line
            start += 1


def lines_of_child(start: int, stop: int) -> Iterator[str]:
    """Yield what a child process says of each of its inputs, and at last why it ended before it had read all."""
    command = [sys.executable, "-m", *sys.orig_argv[sys.orig_argv.index("-m") + 1 :], "--part", str(start), str(stop)]
    quiet = {"JAX_PLATFORMS": "cpu", "CNNJAX_CACHE": "0"}
    with tempfile.TemporaryFile() as said, selectors.DefaultSelector() as selector:
        child = subprocess.Popen(command, cwd=ROOT, env=os.environ | quiet, stdout=subprocess.PIPE, stderr=said)
        assert child.stdout
        selector.register(child.stdout, selectors.EVENT_READ)
        rest, patience, count = b"", SECONDS_TO_START, 0
        with child:
            while selector.select(patience) and (data := os.read(child.stdout.fileno(), 2**16)):
                *lines, rest = (rest + data).split(b"\n")
                yield from (line.decode() for line in lines)
                patience, count = SECONDS_SILENT, count + len(lines)
            if hung := not selector.select(0):
                child.kill()
        if child.returncode == 1:  # an exception of our own, not a crash
            said.seek(0)
            raise RuntimeError(said.read().decode(errors="replace")[-2000:])
        if count < stop - start:  # it ended at the input after the last that it told of
            yield f"said nothing for {patience} seconds" if hung else f"crashed with code {child.returncode}"


def run_part(inputs: list[Input], seed: int, start: int, stop: int) -> None:
    """Read the inputs ``start`` to ``stop``, and print what came of each."""
    warnings.simplefilter("ignore")
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries may print
    for name, group in itertools.groupby(inputs[start:stop], key=lambda one: one.name):
        with prepared(name) as (kind, sample, folder):
            for one in group:
                print(one_outcome(kind, damaged(one, sample, seed), folder), file=told)


def damaged(one: Input, sample: bytes, seed: int) -> bytes:
    """Return the content of an input."""
    return mutate(random.Random(f"{seed}/{one.name}/{one.index}"), sample)


@contextlib.contextmanager
def prepared(name: str) -> Iterator[tuple]:
    """Yield a format, a real file's content, and a folder; the real file was read, so that all is loaded by now."""
    from tests.hostile.formats import FORMATS

    kind = FORMATS[name]
    signal.signal(signal.SIGALRM, _too_long)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / kind.name
        kind.make(path)
        sample = path.read_bytes()
        kind.read(path)
        yield kind, sample, Path(place)


def _too_long(*_: object) -> None:
    raise TooLong


def one_outcome(kind, content: bytes, folder: Path) -> str:
    """Return ``read``, ``refused``, or in some words what was found."""
    from cnnjax.errors import UserError

    path = folder / kind.name
    path.write_bytes(content)
    before = sorted(folder.rglob("*"))
    memory = reset_peak()
    signal.alarm(SECONDS_EACH)
    try:
        kind.read(path)
        outcome = "read"
    except UserError as error:
        outcome = "refused" if len(str(error)) < 200_000 else "an error of more than 200,000 characters"
    except TooLong:
        outcome = f"took more than {SECONDS_EACH} seconds"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {str(error)[:200]!r}"
    finally:
        signal.alarm(0)
    grown = (peak() - memory) // 1024
    if grown > kind.most_megabytes:
        return f"took {grown:,} MB of memory; {outcome}"
    if sorted(folder.rglob("*")) != before:
        return f"wrote a file; {outcome}"
    return outcome


def reset_peak() -> int:
    """Let the process's peak of memory begin anew; return what it takes now, in KB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def show_one(one: Input, seed: int) -> int:
    """Read one input in this process, with the traceback of what is raised, and keep it."""
    with prepared(one.name) as (kind, sample, folder):
        content = damaged(one, sample, seed)
        kept = Path(tempfile.gettempdir()) / f"fuzz-{one.name.replace(' ', '-')}-{one.index}"
        kept.write_bytes(content)
        print(f"{kept}: {one_outcome(kind, content, folder)}")
        (folder / kind.name).write_bytes(content)
        try:
            kind.read(folder / kind.name)
        except Exception:
            traceback.print_exc()
    return 0


if __name__ == "__main__":
    sys.exit(main())
