"""Signals that end a run: noted at once, acted on where the run polls, never in the middle of a step or of a save."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from cnnjax.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, the end of a job, and the warning that a scheduler can be asked to send before that."""

_messages: list[str] = []
"""What `poll` raises; empty until a signal has come. Signals are the process's, and so is this."""


def poll() -> None:
    """Raise Interrupted once a signal has come under `deferred_signals`; else do nothing."""
    if _messages:
        raise Interrupted(_messages[0])


@contextlib.contextmanager
def deferred_signals(message: str) -> Iterator[Callable[[], None]]:
    """Let `poll`, which is also yielded, raise Interrupted with ``message`` once a signal has come.

    A second signal leaves at once. Where this is not entered in the main thread, signals keep their meaning.
    """

    def note(number: int, frame: FrameType | None) -> None:
        if _messages:
            os._exit(Interrupted.exit_code)
        _messages.append(message)

    if threading.current_thread() is not threading.main_thread():
        yield poll
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield poll
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _messages.clear()


def leave_on_signals() -> None:
    """Let every one of the signals raise KeyboardInterrupt, as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler)
