"""Input and output of networks trained on ImageNet, like `keras.applications.imagenet_utils`.

The class names of such a network are the 1,000 WordNet ids; `decode_predictions` adds human-readable names.
"""

from typing import Literal

import jax
import numpy as np

from cnnjax.convert.sources import CAFFE, IMAGENET, SYMMETRIC
from cnnjax.data import Preprocessing, normalize
from cnnjax.data.imagenet_classes import ImageNetClass, imagenet_classes, wordnet_ids
from cnnjax.errors import UserError, choose, require
from cnnjax.training.classification import softmax, top_classes

__all__ = ["ImageNetClass", "decode_predictions", "imagenet_classes", "preprocess", "wordnet_ids"]

MODES = {"caffe": CAFFE, "tf": SYMMETRIC, "torch": IMAGENET}
"""Normalizations by the names that Keras gives them."""


def preprocess(images: jax.Array | np.ndarray, mode: Literal["caffe", "tf", "torch"]) -> jax.Array:
    """Return images normalized for a network with published weights, like Keras's `preprocess_input`.

    Args:
        images: [N, H, W, 3] or [H, W, 3], in RGB order, with values from 0 to 255. They are not resized or changed.
        mode: "caffe": BGR order, minus the mean of ImageNet's channels; "tf": values in [-1, 1]; "torch": values in
            [0, 1], minus the mean of ImageNet's channels, divided by their standard deviation.

    Returns:
        float32 in the same shape.

    Raises:
        UserError: unknown mode, or the images have another shape.

    Example:
        >>> image = np.full((224, 224, 3), 255, np.uint8)  # white
        >>> preprocess(image, "tf")[0, 0]
        Array([1., 1., 1.], dtype=float32)
    """
    normalization = MODES[choose("mode", mode, MODES)]
    if images.ndim not in (3, 4) or images.shape[-1] != 3:
        raise UserError(f"images have shape {tuple(images.shape)}; they must be [N, H, W, 3] or [H, W, 3]")
    batch = images if images.ndim == 4 else images[None]
    _, height, width, _ = batch.shape
    normalized = normalize(Preprocessing(height=height, width=width, **normalization._asdict()), batch)
    return normalized if images.ndim == 4 else normalized[0]


def decode_predictions(logits: jax.Array | np.ndarray, top: int = 3) -> list[list[tuple[str, str, float]]]:
    """Return each image's most likely classes as (WordNet id, name, probability), like Keras's namesake.

    Args:
        logits: [N, 1000], of a network trained on ImageNet. Keras's function takes probabilities instead.
        top: number of classes, 1 or more.

    Raises:
        UserError: the logits have another shape.

    Example:
        >>> logits = np.zeros((1, 1000))
        >>> logits[0, 51] = 20
        >>> decode_predictions(logits, top=1)[0][0][:2]
        ('n01704323', 'triceratops')
    """
    classes = imagenet_classes()
    require(top >= 1, "top", top, "1 or more")
    if logits.ndim != 2 or logits.shape[1] != len(classes):
        raise UserError(f"logits have shape {tuple(logits.shape)}; they must be [N, 1000], for ImageNet's classes")
    probabilities = softmax(np.asarray(logits))
    return [
        [(*classes[c], float(probabilities[n, c])) for c in row]
        for n, row in enumerate(top_classes(probabilities, top))
    ]
