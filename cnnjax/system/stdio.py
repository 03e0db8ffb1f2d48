"""Standard output, which may fail: a full disk under ``> FILE``, a pipe whose reader, such as ``head``, has gone."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from cnnjax.errors import PartlyDone


@contextlib.contextmanager
def lasting_output() -> Iterator[IO[str]]:
    """Yield standard output as a stream whose failure stops nothing.

    Raises:
        PartlyDone: at the end, where some of it could not be written.
    """
    output = _Lasting(sys.stdout)
    yield cast(IO[str], output)
    output.flush()
    if output.problem:
        raise PartlyDone(
            f"training finished, but some of its output could not be written ({output.problem}); its figures are "
            "in its folder, in results.json and report.html"
        )


def hold_closed() -> None:
    """Keep the numbers of standard streams that are closed (``>&-``), so that no file of ours gets one.

    Writing to a closed standard output fails as on a full disk; what goes to a closed standard error is lost.
    """
    for number, way in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, way), True)  # the system gives the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def flush_or_discard(stream: IO[str]) -> None:
    """Write out what a stream holds; where that fails, it and all that follows is lost, and nothing complains."""
    try:
        stream.flush()
    except OSError:
        _discard(stream)


def _discard(stream: IO[str]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class _Lasting:
    """A stream that discards everything after its first failure."""

    def __init__(self, stream: IO[str]):
        self.stream = stream
        self.problem = ""

    def write(self, text: str) -> int:
        self._attempt(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self.stream.flush)

    def _attempt(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except OSError as error:
            self.problem = error.strerror or str(error)
            _discard(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
