"""Ctrl-C and SIGTERM during a training: noted at once, acted on between two steps, never in the middle of a save."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from cnnjax.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred_signals(message: str) -> Iterator[Callable[[], None]]:
    """Yield a function that raises Interrupted with ``message`` once a signal has come. A second signal leaves at once.

    Where it is not entered in the main thread, signals keep their meaning and the function does nothing.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(Interrupted.exit_code)
        received.append(number)

    def poll() -> None:
        if received:
            raise Interrupted(message)

    if threading.current_thread() is not threading.main_thread():
        yield poll
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield poll
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
