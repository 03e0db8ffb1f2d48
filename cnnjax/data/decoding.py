"""Threads that decode photos, and how long they may take.

Threads, not processes: Pillow releases the GIL while it decodes and resizes, so on 2 cores two threads are faster than
two processes, which copy the pixels (docs/performance.md). Threads end with the process, even if it is killed, and
their number does not affect the order of the images.
"""

import atexit
import functools
from collections.abc import Callable, Sequence
from multiprocessing import TimeoutError as NothingYet
from multiprocessing.pool import ThreadPool

from cnnjax.errors import UserError
from cnnjax.system.cpus import cores

WAIT_SECONDS = 60.0
"""Longest wait for the next photo."""


@functools.cache
def decoders() -> ThreadPool:
    """Return the process's decoding threads, one per core."""
    pool = ThreadPool(cores())
    atexit.register(pool.close)
    return pool


def decode_all(decode: Callable[[int], None], indices: Sequence[int], name: Callable[[int], str]) -> None:
    """Call ``decode`` for each index in the decoding threads.

    Args:
        decode: decodes the photo at an index; its exceptions are raised here.
        indices: indices of the photos.
        name: path of the photo at an index, for an error.

    Raises:
        UserError: no photo was finished for `WAIT_SECONDS`.
    """
    results = decoders().imap(decode, indices)
    for index in indices:
        try:
            results.next(WAIT_SECONDS)
        except NothingYet:
            raise UserError(
                f"{name(index)} was not read and decoded within {WAIT_SECONDS:.0f} s; check the disk or the network "
                "drive, then run the same command to resume"
            ) from None
