"""How the measuring process and a peer's process speak: lines of JSON over the peer's standard input and output.

The peer is started with its `Job` on the command line. It prepares, warms up and prints its `Facts`. Then each line
``lap K`` that it reads makes it run K steps, wait for the device once, and print a `Lap`. It ends with its input.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from cnnjax import cli
from cnnjax.benchmark import machine
from cnnjax.benchmark.work import Facts, Job, Lap, Peer
from cnnjax.errors import CnnjaxError, UserError

WARM_UP_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
"""How long a peer may take to end when its input has ended."""


class Prepared(NamedTuple):
    """A peer that has made its network and taken its first step."""

    run: Callable[[int], Any]
    """Run so many steps and return when the device has ended."""
    facts: Facts
    peak_bytes: Callable[[], int] = machine.peak_memory


def serve(prepare: Callable[[Job], Prepared]) -> NoReturn:
    """Be a peer's process."""
    cli.main(lambda arguments: _serve(prepare, Job.from_dict(json.loads(arguments[0]))))


def _serve(prepare: Callable[[Job], Prepared], job: Job) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        prepared = prepare(job)
        machine.forget_peak_memory()
        facts = prepared.facts.replace(step_seconds=warm_up(prepared.run, prepared.facts.granularity))
        print(json.dumps(facts.to_dict()), file=answers)
        for line in sys.stdin:
            seconds = timed(prepared.run, int(line.removeprefix("lap ")))
            print(json.dumps(Lap(seconds=seconds, peak_bytes=prepared.peak_bytes()).to_dict()), file=answers)
    except CnnjaxError:
        raise
    except Exception as error:
        traceback.print_exc()
        message = str(error).strip().partition("\n")[0]
        print(f"error: {type(error).__name__}{': ' * bool(message)}{message}", file=sys.stderr)
        sys.exit(1)


def timed(run: Callable[[int], Any], steps: int) -> float:
    """Return the seconds of ``run(steps)``."""
    started = time.perf_counter()
    run(steps)
    return time.perf_counter() - started


def warm_up(run: Callable[[int], Any], granularity: int = 1) -> float:
    """Run laps, each twice as long as the one before, until one takes a while; return its seconds a step."""
    steps = granularity
    while (seconds := timed(run, steps)) < WARM_UP_SECONDS / 2:
        steps *= 2
    return seconds / steps


class Ended(Exception):
    """A peer's process ended before it was told to; ``refused`` says that it cannot do the work, by its own word."""

    def __init__(self, sentence: str, refused: bool):
        super().__init__(sentence)
        self.refused = refused


class Child:
    """A peer's process, as the measuring process sees it."""

    def __init__(self, peer: Peer, job: Job, *, debug: bool = False):
        self.debug = debug
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # Several processes share a GPU: none may take most of its memory beforehand.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ, **dict(peer.environment)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", peer.module, json.dumps(job.to_dict()), *["--debug"] * debug],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment,
        )  # fmt: skip

    def ready(self) -> Facts:
        """Wait until the peer is ready; raise `Ended` where it never is."""
        return Facts.from_dict(self._answer())

    def lap(self, steps: int) -> Lap:
        """Let it run so many steps; raise `Ended` where it does not come back."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # its end is told by the answer that does not come
            self.process.stdin.write(f"lap {steps}\n")
            self.process.stdin.flush()
        return Lap.from_dict(self._answer())

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        if code < 0:
            raise Ended(f"its process was ended by signal {-code} (9: the memory may be short)", refused=False)
        self.errors.seek(0)
        message = self.errors.read().strip().splitlines() or [f"its process ended with {code} and no word"]
        raise Ended(message[-1].removeprefix("error: "), refused=code == UserError.exit_code)

    def close(self) -> None:
        """End the process, and show what it said where --debug asks for it; a second time does nothing."""
        if self.errors.closed:
            return
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        if self.debug:
            self.errors.seek(0)
            print(self.errors.read(), file=sys.stderr, end="")
        self.errors.close()
