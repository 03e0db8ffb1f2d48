"""Adapt the images of a data set to the input of a trained network."""

import numpy as np

from cnnjax.data.dataset import Source
from cnnjax.data.image_files import as_mode, from_pixels
from cnnjax.data.preprocessing import Preprocessing, fit


class Adapted:
    """A source whose images are converted to grayscale or RGB, resized and cropped by a network's preprocessing."""

    def __init__(self, source: Source, preprocessing: Preprocessing):
        self.source, self.preprocessing = source, preprocessing

    @property
    def labels(self) -> np.ndarray:
        return self.source.labels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.preprocessing.height, self.preprocessing.width, self.preprocessing.channels

    def read(self, indices: np.ndarray) -> np.ndarray:
        adapted = np.empty((len(indices), *self.image_shape), np.uint8)
        for row, image in enumerate(self.source.read(indices)):
            converted = as_mode(from_pixels(image), self.preprocessing.channels)
            adapted[row] = np.asarray(fit(converted, self.preprocessing)).reshape(self.image_shape)
        return adapted

    def take(self, indices: np.ndarray) -> "Adapted":
        return Adapted(self.source.take(indices), self.preprocessing)
