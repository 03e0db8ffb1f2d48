"""Trace some training steps with the JAX profiler, to show where time is spent."""

import re
from pathlib import Path
from typing import Any

import jax

from cnnjax.errors import UserError
from cnnjax.system.files import plain_files
from cnnjax.training.step import Dispatch


def read_steps(text: str) -> range:
    """Parse ``"10:20"`` as steps 10 to 19, counted from 0 at the start of this process."""
    match = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text, re.ASCII)
    steps = range(*map(int, match.groups())) if match else range(0)
    if not steps:
        raise UserError(f"--profile is {text!r}; it must be two increasing steps, such as 10:20 for steps 10 to 19")
    return steps


def check_steps(steps: range, left: int) -> None:
    """Raise UserError unless the training has these steps; ``left`` is the number of steps left to train."""
    if steps.stop > left:
        raise UserError(
            f"--profile is {steps.start}:{steps.stop} and {left} steps are left to train; its second number must be "
            f"{left} or less" + ("" if left else ", so choose another --out for a new training")
        )


class Profile:
    """Writes a trace of the steps to the folder, or of the dispatches that contain them if a dispatch runs several."""

    def __init__(self, steps: range, folder: Path):
        self.steps, self.folder = steps, folder
        if folder.exists():
            plain_files(folder)  # the profiler follows symlinks
        self.done = 0
        self.tracing = self.written = False

    def traced(self, dispatch: Dispatch) -> Dispatch:
        """Return the dispatch, traced at the steps; it waits for the device only at both ends of the trace."""

        def call(*arguments: Any, steps: int, **options: Any) -> Any:
            if self.done <= self.steps.start < self.done + steps:
                jax.block_until_ready(arguments)
                jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
                self.tracing = True
            result = dispatch(*arguments, steps=steps, **options)
            self.done += steps
            if self.tracing and self.done >= self.steps.stop:
                jax.block_until_ready(result)
                self.close()
            return result

        return call

    def close(self) -> None:
        """Write the trace if one has started, even if an interrupt cut it short."""
        if self.tracing:
            self.tracing = False
            jax.profiler.stop_trace()
            self.written = True

    def sentence(self) -> str:
        """Return where the trace is and how to view it."""
        if not self.written:
            return f"no trace: the training ended before step {self.steps.start}"
        return (
            f"trace: {self.folder}/   view it with xprof --logdir {self.folder} (pip install xprof), or open its "
            "perfetto_trace.json.gz at https://ui.perfetto.dev"
        )
