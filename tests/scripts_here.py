"""Runs a script in this process: a start of Python and JAX takes seconds, and rarely is what a test is about."""

import contextlib
import io
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


class Ended(NamedTuple):
    """How a script ended, as `subprocess.CompletedProcess` says it."""

    returncode: int
    stdout: str
    stderr: str


def run_script(name: str, *arguments: object, cwd: Path) -> Ended:
    """Run a script in the folder ``cwd`` as a shell would; return its output and exit code."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    path, environment, before = list(sys.path), dict(os.environ), Path.cwd()
    script = str(SCRIPTS / name)
    code = 0
    try:
        os.chdir(cwd)
        argv = mock.patch.object(sys, "argv", [script, *map(str, arguments)])
        with argv, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    finally:
        os.chdir(before)
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Ended(code, out.getvalue(), err.getvalue())
