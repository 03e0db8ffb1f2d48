"""The exported computation: decoded images in, logits and probabilities out."""

from collections.abc import Callable

import jax
import numpy as np

from cnnjax.errors import UserError
from cnnjax.runs.predictor import Predictor
from cnnjax.training.evaluation import logits_step

LOGITS, PROBABILITIES = "logits", "probabilities"
"""Names of the outputs."""
LARGEST = 2**31 - 2**26
"""Maximum bytes of the variables in a file; the rest is for the program."""


def program(network: Predictor) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Return a function of RGB images uint8 [N, H, W, C], resized and cropped to the network's input size.

    It returns the logits and the probabilities [N, classes]. The preprocessing and the variables are part of it.
    """

    def run(images: jax.Array) -> dict[str, jax.Array]:
        logits = logits_step(network.arch, network.preprocessing, network.variables, images)
        return {LOGITS: logits, PROBABILITIES: jax.nn.softmax(logits)}

    return run


def require_exportable(network: Predictor) -> None:
    """Raise UserError if the network has no classes, or more than fits into a file of protobuf or flatbuffers."""
    network.require_classes()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(network.variables))
    if size > LARGEST:
        raise UserError(f"the network has {size / 2**30:.1f} GiB, more than the 2 GiB of a file; use --to safetensors")


def example_images(network: Predictor, count: int) -> np.ndarray:
    """Return random images uint8 [count, H, W, C] of the network's input size; the same at every call."""
    shape = network.preprocessing
    size = (count, shape.height, shape.width, shape.channels)
    return np.random.default_rng(0).integers(0, 256, size, np.uint8)
