"""Images streamed to several devices: each process reads, and each device receives, only its share of every batch."""

from collections.abc import Iterator

import numpy as np

from cnnjax.data.loader import Chunk, Crops, DeviceSplit, EvaluationBatch, Streamed, ahead, padded_batches


class StreamedShares(Streamed):
    """A `Streamed` loader whose chunks are split over the devices.

    The images of a chunk are [steps, B', H, W, C], where B' is the batch size rounded up to a multiple of the number of
    devices; each device holds an equal share of every step. The padding repeats images, and the step drops it.
    """

    def _chunk(self, picked: np.ndarray, start: int, steps: int, crops: Crops | None) -> Chunk:
        batches = picked.reshape(steps, self.batch_size)
        padding = self.placement.multiple(self.batch_size) - self.batch_size
        padded = np.pad(batches, ((0, 0), (0, padding)), mode="edge")
        own = padded[:, self.placement.share(padded.shape[1])]
        images, boxes = self._read(own.reshape(-1), crops)
        cut = None if boxes is None else boxes.reshape(*own.shape, 4)
        images = images.reshape(*own.shape, *images.shape[1:])
        images, labels, cut = self.placement.split((images, self.source.labels[own], cut), axis=1)
        return Chunk(DeviceSplit(images, labels), None, self.placement.put(np.int32(start)), steps, cut)

    def evaluation(self, batch_size: int) -> Iterator[EvaluationBatch]:
        def batch(part: tuple[np.ndarray, np.ndarray]) -> EvaluationBatch:
            indices, mask = part
            own = indices[self.placement.share(len(indices))]
            data = self.placement.split((self.source.read(own), self.source.labels[own]))
            return EvaluationBatch(DeviceSplit(*data), None, mask)

        return ahead(batch, padded_batches(len(self.source.labels), batch_size, self.placement.count))
