"""Fuzz every file reader with damaged files: each file must be read, or refused with a UserError.

    python -m tests.hostile.fuzz --count 10000 --seed 0
    python -m tests.hostile.fuzz --seed 0 --only h5 --index 17      repeat one input and show its traceback

Anything else is a finding: another exception, a crash, more than 10 seconds, more memory than the format's limit, or a
written file. Inputs are read in child processes, so that a crash or a hang in a library's C code is a finding too.
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
"""Maximum seconds without output between two inputs, and before the first one, because of the import of JAX."""
INPUTS_EACH = 5000
"""Inputs per process: leaks in a library's C code must not add up to a finding."""
GOOD = {"read", "refused"}
ROOT = Path(__file__).resolve().parents[2]


class TooLong(BaseException):
    """Timeout. Not an Exception, so that a reader does not treat it as damage."""


class Input(NamedTuple):
    """A damaged file, which is a function of these fields and the seed."""

    name: str
    index: int


def main() -> int:
    """Fuzz, print the table, and return 1 if there are findings."""
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
        results = [outcome for part in parts for outcome in part]
    print_table(inputs, results, options.seed)
    return 0 if set(results) <= GOOD else 1


def plan(count: int, only: str | None) -> list[Input]:
    """Return the inputs of all formats, or of one, in proportion to their shares."""
    from tests.hostile.formats import FORMATS

    shares = {name: kind.share for name, kind in FORMATS.items() if only in (None, name)}
    counts = {name: -int(-count * share // sum(shares.values())) for name, share in shares.items()}
    return [Input(name, index) for name, number in counts.items() for index in range(number)]


def print_table(inputs: list[Input], results: list[str], seed: int) -> None:
    """Print a line for each format, the totals, and each finding with the command that reproduces it."""
    tallies = {name: collections.Counter[str]() for name in [*(one.name for one in inputs), "all"]}
    for one, outcome in zip(inputs, results, strict=True):
        for name in (one.name, "all"):
            tallies[name][outcome if outcome in GOOD else "findings"] += 1
    print(f"{'format':<16} {'inputs':>7} {'read':>7} {'refused':>8} {'findings':>9}")
    for name, metrics in tallies.items():
        print(f"{name:<16} {metrics.total():>7} {metrics['read']:>7} {metrics['refused']:>8} {metrics['findings']:>9}")
    for one, outcome in zip(inputs, results, strict=True):
        if outcome not in GOOD:
            print(f"python -m tests.hostile.fuzz --seed {seed} --only {one.name!r} --index {one.index}: {outcome}")


def outcomes(start: int, stop: int) -> Iterator[str]:
    """Yield the outcomes of inputs ``start`` to ``stop``, read in a child process that is restarted after a crash."""
    while start < stop:
        for line in lines_of_child(start, min(stop, start + INPUTS_EACH)):
            yield line
            start += 1


def lines_of_child(start: int, stop: int) -> Iterator[str]:
    """Yield the outcomes that a child process prints and, if it ends early, the reason."""
    command = [sys.executable, "-m", *sys.orig_argv[sys.orig_argv.index("-m") + 1 :], "--part", str(start), str(stop)]
    quiet = {"JAX_PLATFORMS": "cpu", "CNNJAX_CACHE": "0"}
    with tempfile.TemporaryFile() as errors, selectors.DefaultSelector() as selector:
        child = subprocess.Popen(command, cwd=ROOT, env=os.environ | quiet, stdout=subprocess.PIPE, stderr=errors)
        assert child.stdout
        selector.register(child.stdout, selectors.EVENT_READ)
        rest, timeout, count = b"", SECONDS_TO_START, 0
        with child:
            while selector.select(timeout) and (data := os.read(child.stdout.fileno(), 2**16)):
                *lines, rest = (rest + data).split(b"\n")
                yield from (line.decode() for line in lines)
                timeout, count = SECONDS_SILENT, count + len(lines)
            if hung := not selector.select(0):
                child.kill()
        if child.returncode == 1:  # an exception of our own, not a crash
            errors.seek(0)
            raise RuntimeError(errors.read().decode(errors="replace")[-2000:])
        if count < stop - start:  # it ended while reading the next input
            yield f"no output for {timeout} seconds" if hung else f"crashed with code {child.returncode}"


def run_part(inputs: list[Input], seed: int, start: int, stop: int) -> None:
    """Read inputs ``start`` to ``stop`` and print their outcomes."""
    warnings.simplefilter("ignore")
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries may print
    for name, group in itertools.groupby(inputs[start:stop], key=lambda one: one.name):
        with prepared(name) as (kind, sample, folder):
            for one in group:
                print(one_outcome(kind, damaged(one, sample, seed), folder), file=output)


def damaged(one: Input, sample: bytes, seed: int) -> bytes:
    """Return the damaged content of an input."""
    return mutate(random.Random(f"{seed}/{one.name}/{one.index}"), sample)


@contextlib.contextmanager
def prepared(name: str) -> Iterator[tuple]:
    """Yield a format, the content of a valid file, and a folder. The file is read once first, to load all imports."""
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
    """Return ``read``, ``refused`` or a description of the finding."""
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
    """Reset the process's peak memory and return its current memory, in KB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def show_one(one: Input, seed: int) -> int:
    """Read one input in this process, print the traceback of its exception, and keep the file."""
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
