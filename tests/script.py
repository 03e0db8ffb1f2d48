"""Run a script of `scripts/` in this process, because starting Python and JAX takes longer than most scripts.

Tests that need a process (for signals, closed streams, a full disk, imports) start one themselves.
"""

import contextlib
import io
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax

from cnnjax.system.signals import SIGNALS

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


class Ended(NamedTuple):
    """Exit code and output of a script, with the names that `subprocess.run` uses."""

    returncode: int
    stdout: str
    stderr: str


def run_script(name: str, *arguments: object, cwd: Path | None = None, **environment: str) -> Ended:
    """Run ``scripts/NAME`` with arguments, in a folder, with extra environment variables.

    Signal handlers, environment, command line and JAX's platform are restored afterwards.
    """
    argv = [str(SCRIPTS / name), *map(str, arguments)]
    stdout, stderr = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    platforms = jax.config.jax_platforms
    try:
        with (
            contextlib.chdir(cwd or Path.cwd()),
            mock.patch.object(sys, "argv", argv),
            mock.patch.dict(os.environ, environment),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        return Ended(stop.code or 0, stdout.getvalue(), stderr.getvalue())
    finally:
        jax.config.update("jax_platforms", platforms)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    raise AssertionError(f"{name} returned instead of ending with an exit code")
