"""The protocol between the measuring process and a peer process: lines of JSON over standard input and output.

A peer is started with its `Job` on the command line. It prepares, warms up and prints its `Facts`. For each line
``lap K`` that it reads, it runs K steps, waits for the device once and prints a `Lap`. It exits at the end of its
input.
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
"""Time limit for a peer to exit after its input is closed."""


class Prepared(NamedTuple):
    """A peer that has built its network and run its first step."""

    run: Callable[[int], Any]
    """Run the given number of steps and return when the device has finished."""
    facts: Facts
    peak_bytes: Callable[[], int] = machine.peak_memory


def serve(prepare: Callable[[Job], Prepared]) -> NoReturn:
    """Run as a peer process."""
    cli.main(lambda arguments: _serve(prepare, Job.from_dict(json.loads(arguments[0]))))


def _serve(prepare: Callable[[Job], Prepared], job: Job) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # library output must not mix with the replies
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
    """Return the duration of ``run(steps)`` in seconds."""
    started = time.perf_counter()
    run(steps)
    return time.perf_counter() - started


def warm_up(run: Callable[[int], Any], granularity: int = 1) -> float:
    """Run laps of doubling length until one takes half of `WARM_UP_SECONDS`; return its seconds per step."""
    steps = granularity
    while (seconds := timed(run, steps)) < WARM_UP_SECONDS / 2:
        steps *= 2
    return seconds / steps


class Ended(Exception):
    """A peer process exited early; ``refused`` is True if the peer reported that it does not support the job."""

    def __init__(self, sentence: str, refused: bool):
        super().__init__(sentence)
        self.refused = refused


class Child:
    """A peer process, controlled by the measuring process."""

    def __init__(self, peer: Peer, job: Job, *, debug: bool = False):
        self.debug = debug
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # Several processes share a GPU, so none may preallocate most of its memory.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ, **dict(peer.environment)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", peer.module, json.dumps(job.to_dict()), *["--debug"] * debug],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment,
        )  # fmt: skip

    def ready(self) -> Facts:
        """Wait until the peer is ready; raise `Ended` if its process exits."""
        return Facts.from_dict(self._answer())

    def lap(self, steps: int) -> Lap:
        """Run ``steps`` steps; raise `Ended` if the process exits."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # the missing answer reports it
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
            raise Ended(f"its process was killed by signal {-code} (9: possibly out of memory)", refused=False)
        self.errors.seek(0)
        message = self.errors.read().strip().splitlines() or [f"its process exited with code {code} without a message"]
        raise Ended(message[-1].removeprefix("error: "), refused=code == UserError.exit_code)

    def close(self) -> None:
        """End the process, and with --debug print its error output; a second call does nothing."""
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
