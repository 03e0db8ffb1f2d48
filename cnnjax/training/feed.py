"""How a training's images reach the device: all of them once, or some steps' worth at a time with two portions ahead.

Both give each step the same images, so a rule may choose (`way`) without changing a result.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import jax
import numpy as np

from cnnjax.data import Split
from cnnjax.training.evaluation import IN_FLIGHT, DeviceSplit, to_device
from cnnjax.training.step import steps_per_dispatch

RESIDENT_SHARE = 0.25
"""Of the device's memory: images that take no more stay there."""
CHUNK_BYTES = 2**28
"""Images that are sent to the device at once, where they do not stay there; at least those of one step."""
AHEAD = 2
"""Portions that are on their way while another is trained on."""


class Chunk(NamedTuple):
    """Some steps' images on the device; ``order`` [M] begins with those of the epoch's step ``start`` (None: 0)."""

    data: DeviceSplit
    order: jax.Array
    start: jax.Array | None
    steps: int


class Feed(Protocol):
    """Gives an epoch's images in portions."""

    in_flight: int
    """Dispatches that may be queued on the device before the host waits for the oldest: each keeps its portion."""

    def epoch(self, order: np.ndarray, first: int, end: int) -> Iterator[Chunk]:
        """Yield the portions of the steps ``first`` to ``end``; step k sees the images order[k * B : k * B + B]."""

    def some(self) -> DeviceSplit:
        """Return images for trying a step: at least a batch."""


class Resident:
    """All images stay on the device; only the order is sent."""

    in_flight = IN_FLIGHT

    def __init__(self, split: Split, steps: int):
        self.data, self.steps = to_device(split), steps

    def epoch(self, order: np.ndarray, first: int, end: int) -> Iterator[Chunk]:
        on_device = jax.device_put(order)
        for start in range(first, end, self.steps):
            yield Chunk(self.data, on_device, None, min(self.steps, end - start))

    def some(self) -> DeviceSplit:
        return self.data


class Streamed:
    """A thread gathers the images of the next steps on the host and sends them while the device trains."""

    in_flight = AHEAD

    def __init__(self, split: Split, batch_size: int, steps: int):
        self.split, self.batch_size, self.steps = split, batch_size, steps

    def epoch(self, order: np.ndarray, first: int, end: int) -> Iterator[Chunk]:
        starts = range(first, end, self.steps)
        on_the_way: deque[Future[Chunk]] = deque()
        pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
        try:
            for number in range(len(starts) + AHEAD):
                if number < len(starts):
                    on_the_way.append(pool.submit(self._send, order, starts[number], end))
                if number >= AHEAD:
                    yield on_the_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def some(self) -> DeviceSplit:
        return to_device(Split(*(array[: self.batch_size] for array in self.split)))

    def _send(self, order: np.ndarray, start: int, end: int) -> Chunk:
        steps = min(self.steps, end - start)
        picked = order[start * self.batch_size : (start + steps) * self.batch_size]
        local = jax.device_put(np.arange(len(picked), dtype=np.int32))
        return Chunk(to_device(self.split.take(picked)), local, jax.device_put(np.int32(start)), steps)


class Way(NamedTuple):
    """How a split reaches the device: whether it stays there, and how many steps go to the device in one call."""

    resident: bool
    steps: int


def way(split: Split, batch_size: int, steps_per_epoch: int) -> Way:
    """Return how: by the size of the images and the memory of the device; that of a CPU is the host's anyhow."""
    steps = steps_per_dispatch(jax.default_backend(), steps_per_epoch)
    memory = device_memory()
    if memory is None or split.images.nbytes <= RESIDENT_SHARE * memory:
        return Way(True, steps)
    return Way(False, max(1, min(steps, CHUNK_BYTES // (batch_size * split.images[0].nbytes))))


def device_memory() -> int | None:
    """Return the bytes that the device says it has."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")


def make_feed(split: Split, batch_size: int, steps_per_epoch: int) -> Feed:
    """Return the feed for a training on ``split``."""
    resident, steps = way(split, batch_size, steps_per_epoch)
    return Resident(split, steps) if resident else Streamed(split, batch_size, steps)
