"""What a peer's process is asked to do, what it answers, and which peers there are."""

from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator

from cnnjax.cli import Platform
from cnnjax.schema import Number, Schema

Task = Literal["train", "infer"]
LEARNING_RATE = 1e-3
"""Small, so that no network diverges on random labels."""
LARGEST_BATCH = 2**20
"""Images in a step."""
IMAGE_BYTES, MOST_BATCHES = 2**27, 256
"""How large the training images may be together, and how many batches they are at most."""


def _are_batches(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if not all(1 <= size <= LARGEST_BATCH for size in sizes):
        raise ValueError(f"one or more numbers, each from 1 to {LARGEST_BATCH:,}")
    return sizes


Batches = Annotated[tuple[int, ...], AfterValidator(_are_batches)]
"""Images in a step, of one step or several."""


class Peer(NamedTuple):
    """Somebody to measure: a name, the module that does so, the package it needs, what its environment adds."""

    name: str
    module: str
    package: str
    environment: tuple[tuple[str, str], ...] = ()


OURS = Peer("cnnjax", "cnnjax.benchmark.ours", "jax")
XLA = Peer("xla", "cnnjax.benchmark.ours", "jax", (("CNNJAX_NATIVE", "0"),))
"""Ours without the native part; listed only where ours uses it."""
OTHERS = (
    XLA,
    Peer("torch", "cnnjax.benchmark.torch_peer", "torch"),
    Peer("keras", "cnnjax.benchmark.keras_peer", "keras"),
)


class Job(Schema):
    """What every peer does alike."""

    task: Task
    model: str
    image_shape: tuple[int, ...]
    """(H, W, C), as ours has it."""
    num_classes: int
    batch: int
    dtype: Literal["float32", "bfloat16"] = "float32"
    platform: Platform = "auto"

    @property
    def optimizer(self) -> Literal["adam", "momentum"]:
        """LeNet trains with adam, all others by gradient descent with a momentum of 0.9."""
        return "adam" if self.model == "lenet" else "momentum"

    @property
    def batches(self) -> int:
        """Batches in an epoch of training; 1 for inference."""
        if self.task == "infer":
            return 1
        height, width, channels = self.image_shape
        return max(1, min(MOST_BATCHES, IMAGE_BYTES // (self.batch * height * width * channels)))

    @property
    def mean(self) -> tuple[float, ...]:
        """Of the channels, scaled to [0, 1]: ImageNet's of three channels, otherwise one number for all."""
        return (0.485, 0.456, 0.406) if self.image_shape[2] == 3 else (0.5,)

    @property
    def std(self) -> tuple[float, ...]:
        """As `mean`."""
        return (0.229, 0.224, 0.225) if self.image_shape[2] == 3 else (0.25,)

    def made_up(self) -> tuple[np.ndarray, np.ndarray]:
        """Return random images uint8 [N, H, W, C] and labels int32 [N] from a fixed seed: an epoch of them."""
        rng = np.random.default_rng(0)
        count = self.batch * self.batches
        images = rng.integers(0, 256, (count, *self.image_shape), dtype=np.uint8)
        return images, rng.integers(0, self.num_classes, count, dtype=np.int32)


class Facts(Schema):
    """What a peer says when it is ready: the network is made, compiled and warm."""

    how: str
    """How the peer does it, where there is a choice."""
    packages: tuple[str, ...]
    platform: Platform
    device: str
    threads: int
    parameters: int
    first_step_seconds: Number
    """The first step (or dispatch) with its compilation."""
    step_seconds: Number
    """About what a step takes, found in the warm-up."""
    granularity: int = 1
    """The steps of a lap are a multiple of this."""
    multiply_adds: int = 0
    """Of the network for one image; only ours counts them."""
    native: bool = False
    """Whether convolutions are computed by the native part."""
    peak_rate: Number = 0.0
    """Floating-point operations a second that the device could do; only ours says."""
    peak_source: str = ""
    """Where `peak_rate` is from."""


class Lap(Schema):
    """What a peer says after a lap: how long it took, and the largest memory since the warm-up began."""

    seconds: Number
    peak_bytes: int
