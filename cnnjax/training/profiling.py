"""A trace of some training steps by JAX's profiler, which shows where their time goes."""

import re
from pathlib import Path
from typing import Any

import jax

from cnnjax.errors import UserError
from cnnjax.system.files import plain_files
from cnnjax.training.step import Dispatch


def read_steps(text: str) -> range:
    """Read ``"10:20"``: the steps 10 up to 19, counted from 0 at this start of the process."""
    match = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text, re.ASCII)
    steps = range(*map(int, match.groups())) if match else range(0)
    if not steps:
        raise UserError(f"--profile is {text!r}; it must be two steps that rise, such as 10:20 for the steps 10 to 19")
    return steps


def check_steps(steps: range, left: int) -> None:
    """Raise UserError unless the training has these steps; ``left`` is how many this start has before it."""
    if steps.stop > left:
        raise UserError(
            f"--profile is {steps.start}:{steps.stop} and this start trains {left} steps; its second number must be "
            f"{left} or less" + ("" if left else ": there is nothing left to train, so give another --out")
        )


class Profile:
    """Writes a trace of the steps to the folder; with several steps in a dispatch, of the dispatches that hold them."""

    def __init__(self, steps: range, folder: Path):
        self.steps, self.folder = steps, folder
        if folder.exists():
            plain_files(folder)  # the profiler writes through a link
        self.done = 0
        self.tracing = self.written = False

    def traced(self, dispatch: Dispatch) -> Dispatch:
        """Return the dispatch, traced at the steps; the device is waited for there and nowhere else."""

        def call(*arguments: Any, steps: int, **others: Any) -> Any:
            if self.done <= self.steps.start < self.done + steps:
                jax.block_until_ready(arguments)
                jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
                self.tracing = True
            result = dispatch(*arguments, steps=steps, **others)
            self.done += steps
            if self.tracing and self.done >= self.steps.stop:
                jax.block_until_ready(result)
                self.close()
            return result

        return call

    def close(self) -> None:
        """Write the trace where one has begun, also one that an interrupt cut short."""
        if self.tracing:
            self.tracing = False
            jax.profiler.stop_trace()
            self.written = True

    def sentence(self) -> str:
        """Return where the trace lies and how to look at it."""
        if not self.written:
            return f"no trace: the training ended before step {self.steps.start}"
        return (
            f"trace: {self.folder}/   xprof --logdir {self.folder} shows it (pip install xprof), and so does "
            "https://ui.perfetto.dev with its perfetto_trace.json.gz"
        )
