"""Run a process of a training on several hosts as a child, because JAX ends it without Python when another one dies.

JAX's coordination service then aborts the process with a page of log. The supervisor, which does not start JAX, drops
that log, says in one sentence what happened and how to resume, and passes signals on. If it is killed, the child ends.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import NamedTuple

from cnnjax.errors import PartlyDone, UserError
from cnnjax.system import signals

VARIABLE = "CNNJAX_SUPERVISOR"
"""Environment variable of the child: the descriptor of a pipe that closes when the supervisor ends."""
LOG = re.compile(r"[EF]\d{4} \d\d:\d\d:\d\d\.\d+ |\[Gloo\] ")
"""Begin of an error in XLA's log, or of a line about a connection; the lines that follow belong to it."""
OURS = ("error: ", "notice: ", "Traceback ")
EXIT_CODES = range(4)
IF_KILLED = "cnnjax, if killed: "
"""Begin of a line on standard error that tells the supervisor what to say if the process is killed."""


def is_supervised() -> bool:
    """Return whether this process is the child of a supervisor."""
    return VARIABLE in os.environ


def obey() -> None:
    """Prepare the child: signals come from the supervisor only, and this process ends with it.

    What libraries write to standard output without Python goes to standard error, where the supervisor drops it.
    """
    descriptor = int(os.environ[VARIABLE])
    signals.obey_relayed_signals()
    sys.stdout.flush()
    output = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(output, "w", buffering=1, encoding=sys.stdout.encoding, errors="backslashreplace")

    def wait() -> None:
        os.read(descriptor, 1)  # returns when the supervisor ends
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def if_killed(sentence: str) -> None:
    """Tell the supervisor, if there is one, what it says if JAX ends this process from now on; "" for its own text."""
    if is_supervised():
        print(IF_KILLED + " ".join(sentence.split()), file=sys.stderr, flush=True)


def supervise(resume_command: str, *, keep_log: bool) -> int:
    """Run this command again as a child; return the exit code, after printing one sentence if the child was killed.

    ``keep_log`` prints XLA's log too.
    """
    ours, childs = os.pipe()
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]], env={**os.environ, VARIABLE: str(ours)}, pass_fds=(ours,),
        stderr=subprocess.PIPE, text=True, errors="backslashreplace",
    )  # fmt: skip
    os.close(ours)
    received = []

    def relay(number: int, frame: FrameType | None) -> None:
        received.append(number)
        child.send_signal(signals.RELAYED)

    for number in signals.SIGNALS:
        signal.signal(number, relay)
    assert child.stderr is not None
    explained, reason = filtered(
        child.stderr, lambda line: print(line, end="", file=sys.stderr, flush=True), keep_log=keep_log
    )
    code = child.wait()
    os.close(childs)
    if code in EXIT_CODES:
        return code
    if reason and not received and code != -signal.SIGKILL:
        print(f"error: {reason}", file=sys.stderr)
        return UserError.exit_code
    if not explained:
        print(f"error: {_sentence(code, bool(received), resume_command)}", file=sys.stderr)
    return PartlyDone.exit_code


class Filtered(NamedTuple):
    """Whether the child has reported an error itself, and the last sentence of `if_killed`."""

    explained: bool
    reason: str


def filtered(lines: Iterable[str], write: Callable[[str], object], *, keep_log: bool = False) -> Filtered:
    """Write the lines without XLA's errors and without those for the supervisor."""
    dropped = explained = False
    reason = ""
    for line in lines:
        if line.startswith(IF_KILLED):
            reason, dropped = line.removeprefix(IF_KILLED).strip(), False
            continue
        if line.startswith(OURS):
            dropped = False
            explained |= line.startswith("error: ")
        elif LOG.match(line):
            dropped = True
        if keep_log or not dropped:
            write(line)
    return Filtered(explained, reason)


def _sentence(code: int, was_interrupted: bool, resume_command: str) -> str:
    if was_interrupted:
        return f"interrupted; to resume, start all processes again: {resume_command}"
    if code == -signal.SIGKILL:
        what = "this process was killed (SIGKILL; the system also does that when memory runs out)"
    else:
        what = "another process of this training has ended, or cannot be reached; see its output"
    return f"{what}; to resume, start all processes again: {resume_command}"
