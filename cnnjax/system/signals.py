"""Signals that end a run. They are recorded at once and acted on when the run polls, never during a step or a save."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from cnnjax.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, the end of a job, and the warning that a scheduler can send before it."""
RELAYED = signal.SIGUSR2
_obeyed: tuple[signal.Signals, ...] = SIGNALS

_messages: list[str] = []
"""Message that `poll` raises; empty until a signal arrives. Global, because signals are per process."""
_deferring: list[str] = []
"""Message of the `deferred_signals` in effect, or empty."""


def poll() -> None:
    """Raise Interrupted if a signal has arrived under `deferred_signals`."""
    if _messages:
        raise Interrupted(_messages[0])


def request() -> None:
    """Make `poll` raise Interrupted as if a signal had arrived; another process of the training has received one."""
    if not _messages:
        _messages.append(_deferring[0] if _deferring else "interrupted")


@contextlib.contextmanager
def deferred_signals(message: str) -> Iterator[Callable[[], None]]:
    """Make `poll`, which is also yielded, raise Interrupted with ``message`` after a signal.

    A second signal ends the process at once. Outside the main thread, signal handlers stay unchanged. Inside another
    `deferred_signals`, the outer one stays in effect with its message.
    """

    def record(number: int, frame: FrameType | None) -> None:
        if _messages:
            os._exit(Interrupted.exit_code)
        _messages.append(message)

    if _deferring or threading.current_thread() is not threading.main_thread():
        yield poll
        return
    before = {number: signal.signal(number, record) for number in _obeyed}
    _deferring.append(message)
    try:
        yield poll
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _deferring.clear()
        _messages.clear()


def obey_relayed_signals() -> None:
    """Take only `RELAYED` for a signal, which `cnnjax.system.supervisor` sends; the others reach the supervisor too."""
    global _obeyed
    for number in _obeyed:
        signal.signal(number, signal.SIG_IGN)
    _obeyed = (RELAYED,)
    leave_on_signals()


def leave_on_signals() -> None:
    """Make each of the signals raise KeyboardInterrupt, as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        for number in _obeyed:
            signal.signal(number, signal.default_int_handler)
