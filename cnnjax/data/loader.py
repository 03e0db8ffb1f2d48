"""Loaders: how the images of a source reach the device.

`Resident` sends all of them once. `Streamed` reads the images of a few steps at a time, from memory or from disk, and
prefetches two chunks. Both give each step the same images, so the choice in `loading_plan` does not affect results.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import jax
import numpy as np

from cnnjax.data.crops import draw_boxes
from cnnjax.data.dataset import Source, Split
from cnnjax.data.photos import Photos
from cnnjax.parallel import Placement, device_memory, round_up

T = TypeVar("T")
RESIDENT_SHARE = 0.25
"""Maximum fraction of the device's memory for images that stay there."""
CHUNK_BYTES = 2**28
"""Maximum bytes of a streamed chunk, which holds at least one step."""
AHEAD = 2
"""Number of chunks to prefetch."""
IN_FLIGHT = 8
"""Calls that may be queued on the device before the host waits for the oldest, in training and evaluation."""


class DeviceSplit(NamedTuple):
    """Images on the device: uint8 [N, H, W, C], with their labels int32 [N]."""

    images: jax.Array
    labels: jax.Array


class Chunk(NamedTuple):
    """The images of a few steps on the device; ``order`` [M] lists them from the epoch's step ``start`` on (None: 0).

    ``boxes`` int32 [M, 4] are the random resized crops that the step has to make, in the same order. Without an order,
    images, labels and boxes have a leading axis over the steps (see `cnnjax.data.shares`).
    """

    data: DeviceSplit
    order: jax.Array | None
    start: jax.Array | None
    steps: int
    boxes: jax.Array | None = None


class Crops(NamedTuple):
    """The random resized crops of an epoch: arguments of `crops.draw_boxes`."""

    seed: int
    epoch: int
    smallest: float

    def boxes(self, source: Source, indices: np.ndarray) -> np.ndarray:
        """Return the boxes int32 [K, 4] of the images at ``indices``."""
        if isinstance(source, Photos):
            heights, widths = source.sizes[indices].T
        else:
            heights, widths = (np.full(len(indices), length) for length in source.image_shape[:2])
        return draw_boxes(self.seed, self.epoch, indices, heights, widths, self.smallest)


class EvaluationBatch(NamedTuple):
    """The images of ``data`` at ``indices`` int32 [B] (None: all); only those where ``mask`` bool [B] is True count."""

    data: DeviceSplit
    indices: np.ndarray | None
    mask: np.ndarray


class Loader(Protocol):
    """Gives the images of one source in the order of an epoch, or each once for an evaluation."""

    in_flight: int
    """Calls that may be queued on the device before the host waits for the oldest. Each queued call keeps its chunk in
    memory."""

    def epoch(self, order: np.ndarray, first: int, end: int, crops: Crops | None = None) -> Iterator[Chunk]:
        """Yield the chunks of the steps ``first`` to ``end``; step k sees the images order[k * B : k * B + B]."""

    def evaluation(self, batch_size: int) -> Iterator[EvaluationBatch]:
        """Yield batches that hold each image once; the last one is padded with images that do not count."""

    def sample(self, count: int) -> DeviceSplit:
        """Return at least ``count`` images, or all if there are fewer, to try a step."""


class Resident:
    """All images stay on the device; each epoch sends only the order and the crop boxes."""

    in_flight = IN_FLIGHT

    def __init__(self, source: Source, steps: int, placement: Placement):
        everything = np.arange(len(source.labels))
        images = source.images if isinstance(source, Split) else source.read(everything)
        self.data, self.steps, self.placement = DeviceSplit(*placement.put((images, source.labels))), steps, placement
        self.source = source

    def epoch(self, order: np.ndarray, first: int, end: int, crops: Crops | None = None) -> Iterator[Chunk]:
        on_device = self.placement.put(order)
        boxes = self.placement.put(crops.boxes(self.source, order)) if crops else None
        for start in range(first, end, self.steps):
            yield Chunk(self.data, on_device, None, min(self.steps, end - start), boxes)

    def evaluation(self, batch_size: int) -> Iterator[EvaluationBatch]:
        for indices, mask in padded_batches(len(self.data.labels), batch_size, self.placement.count):
            yield EvaluationBatch(self.data, indices, mask)

    def sample(self, count: int) -> DeviceSplit:
        return self.data


class Streamed:
    """A thread reads the images of the next steps on the host and sends them while the device computes."""

    in_flight = AHEAD

    def __init__(self, source: Source, batch_size: int, steps: int, placement: Placement):
        self.source, self.batch_size, self.steps, self.placement = source, batch_size, steps, placement

    def epoch(self, order: np.ndarray, first: int, end: int, crops: Crops | None = None) -> Iterator[Chunk]:
        def chunk(start: int) -> Chunk:
            steps = min(self.steps, end - start)
            picked = order[start * self.batch_size : (start + steps) * self.batch_size]
            return self._chunk(picked, start, steps, crops)

        return ahead(chunk, range(first, end, self.steps))

    def _chunk(self, picked: np.ndarray, start: int, steps: int, crops: Crops | None) -> Chunk:
        """Return the chunk of the steps from ``start`` on, which see the images at ``picked`` [M]."""
        local = self.placement.put(np.arange(len(picked), dtype=np.int32))
        images, boxes = self._read(picked, crops)
        sent = self._put(images, picked)
        return Chunk(sent, local, self.placement.put(np.int32(start)), steps, self.placement.put(boxes))

    def _read(self, picked: np.ndarray, crops: Crops | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the images at ``picked`` [M], and the boxes int32 [M, 4] that remain to be cut from them."""
        boxes = crops.boxes(self.source, picked) if crops else None
        if boxes is not None and isinstance(self.source, Photos):  # cut from the whole photo, not from its center
            return self.source.read_crops(picked, boxes), None
        return self.source.read(picked), boxes

    def evaluation(self, batch_size: int) -> Iterator[EvaluationBatch]:
        def batch(part: tuple[np.ndarray, np.ndarray]) -> EvaluationBatch:
            indices, mask = part
            return EvaluationBatch(self._send(indices), np.arange(len(indices), dtype=np.int32), mask)

        return ahead(batch, padded_batches(len(self.source.labels), batch_size))

    def sample(self, count: int) -> DeviceSplit:
        return self._send(np.arange(min(count, len(self.source.labels))))

    def _send(self, indices: np.ndarray) -> DeviceSplit:
        return self._put(self.source.read(indices), indices)

    def _put(self, images: np.ndarray, indices: np.ndarray) -> DeviceSplit:
        return DeviceSplit(*self.placement.put((images, self.source.labels[indices])))


U = TypeVar("U")


def ahead(make: Callable[[T], U], parts: "Iterator[T] | range") -> Iterator[U]:
    """Yield ``make(part)`` for each of the parts, computed in a thread that runs up to `AHEAD` parts ahead."""
    on_the_way: deque[Future[U]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="loader")
    try:
        for part in parts:
            on_the_way.append(pool.submit(make, part))  # type: ignore[arg-type]
            if len(on_the_way) > AHEAD:
                yield on_the_way.popleft().result()
        while on_the_way:
            yield on_the_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def padded_batches(count: int, batch_size: int, devices: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (indices int32 [B], mask bool [B]) that cover ``range(count)`` once; the last batch is padded.

    B is the batch size, or ``count`` if that is less, rounded up to a multiple of the number of ``devices``.
    """
    batch_size = round_up(min(batch_size, count), devices)
    for start in range(0, count, batch_size):
        indices = np.arange(start, start + batch_size, dtype=np.int32)
        mask = indices < count
        yield np.where(mask, indices, np.int32(0)), mask


class LoadingPlan(NamedTuple):
    """How a source reaches the device: whether it stays there, and how many steps run in one device call."""

    resident: bool
    steps: int


def loading_plan(source: Source, batch_size: int, steps: int) -> LoadingPlan:
    """Decide how a source is loaded for calls of up to ``steps`` steps, by the size of its images and whether they are
    in memory.

    Images in memory stay on the device if they fit there; the memory of a CPU is the host's. Those on disk are
    streamed.
    """
    bytes_per_image = int(np.prod(source.image_shape))
    memory = device_memory()
    size = len(source.labels) * bytes_per_image
    if isinstance(source, Split) and (memory is None or size <= RESIDENT_SHARE * memory):
        return LoadingPlan(True, steps)
    return LoadingPlan(False, max(1, min(steps, CHUNK_BYTES // (batch_size * bytes_per_image))))


def make_loader(source: Source, batch_size: int, steps: int, placement: Placement) -> Loader:
    """Return the loader for a source by `loading_plan`."""
    plan = loading_plan(source, batch_size, steps)
    if plan.resident:
        return Resident(source, plan.steps, placement)
    if placement.count > 1:
        from cnnjax.data.shares import StreamedShares  # it is a loader itself

        return StreamedShares(source, batch_size, plan.steps, placement)
    return Streamed(source, batch_size, plan.steps, placement)
