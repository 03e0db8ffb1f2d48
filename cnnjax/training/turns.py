"""Work in small parts, so that several training runs can take turns in one process."""

import itertools
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

from cnnjax.errors import Interrupted

K = TypeVar("K")
T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work in small parts: each ``next`` does one part, and the generator returns the result."""


def finish(steps: Steps[T]) -> T:
    """Do all the remaining work and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def take_turns(works: Iterable[tuple[K, Steps[T]]], most: int) -> Iterator[tuple[K, T | Exception]]:
    """Do one part of each task in turn; yield each name with the result or the error of its task, as it ends.

    At most ``most`` tasks are in progress; the next one begins when one ends. An error ends only its own task.

    Raises:
        Interrupted: a task was interrupted. The others in progress continued until they ended too, so that each could
            save its position, and no further task was started.
    """
    waiting = iter(works)
    active: list[tuple[K, Steps[T]]] = []
    interrupted: Interrupted | None = None
    try:
        while True:
            if interrupted is None:
                active += itertools.islice(waiting, most - len(active))
            if not active:
                break
            for name, steps in list(active):
                try:
                    next(steps)
                    continue
                except StopIteration as end:
                    result = end.value
                except Interrupted as error:
                    interrupted = error
                    active.remove((name, steps))
                    continue
                except Exception as error:
                    result = error
                active.remove((name, steps))
                yield name, result
    finally:
        for _, steps in active:
            steps.close()
    if interrupted is not None:
        raise interrupted
