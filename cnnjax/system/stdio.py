"""Standard output that may fail: a full disk under ``> FILE``, or a pipe whose reader, such as ``head``, has exited."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from cnnjax.errors import PartlyDone


@contextlib.contextmanager
def lasting_output() -> Iterator[IO[str]]:
    """Yield standard output as a stream that never raises.

    Raises:
        PartlyDone: at the end, if some of the output could not be written.
    """
    output = _Lasting(sys.stdout)
    yield cast(IO[str], output)
    output.flush()
    if output.problem:
        raise PartlyDone(
            f"training finished, but some of its output could not be written ({output.problem}); the results are in "
            "the run folder, in results.json and report.html"
        )


def hold_closed() -> None:
    """Reserve the descriptors of closed standard streams (``>&-``), so that no other file gets them.

    Writing to a closed standard output fails as on a full disk; output to a closed standard error is lost.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)  # open returns the lowest free number
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def flush_or_discard(stream: IO[str]) -> None:
    """Flush a stream; if that fails, silently discard its contents and all later output."""
    try:
        stream.flush()
    except OSError:
        _discard(stream)


def _discard(stream: IO[str]) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class _Lasting:
    """A stream that discards all output after its first failure."""

    def __init__(self, stream: IO[str]):
        self.stream = stream
        self.problem = ""

    def write(self, text: str) -> int:
        self._attempt(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self.stream.flush)

    def _attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            self.problem = error.strerror or str(error)
            _discard(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
