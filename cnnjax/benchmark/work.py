"""Jobs and results that the benchmark processes exchange, and the list of peers."""

from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator

from cnnjax.cli import Platform
from cnnjax.schema import Number, Schema

Task = Literal["train", "infer"]
LEARNING_RATE = 1e-3
"""Learning rate, small enough that no network diverges on random labels."""
LARGEST_BATCH = 2**20
"""Maximum batch size."""
IMAGE_BYTES, MOST_BATCHES = 2**27, 256
"""Maximum bytes of the training images, and maximum number of batches."""


def _are_batches(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if not all(1 <= size <= LARGEST_BATCH for size in sizes):
        raise ValueError(f"one or more numbers, each from 1 to {LARGEST_BATCH:,}")
    return sizes


Batches = Annotated[tuple[int, ...], AfterValidator(_are_batches)]
"""One or more batch sizes."""


class Peer(NamedTuple):
    """A library to measure: its name, the module to run, the package it needs, extra environment variables."""

    name: str
    module: str
    package: str
    environment: tuple[tuple[str, str], ...] = ()


OURS = Peer("cnnjax", "cnnjax.benchmark.ours", "jax")
XLA = Peer("xla", "cnnjax.benchmark.ours", "jax", (("CNNJAX_NATIVE", "0"),))
"""cnnjax without the native library; listed only if cnnjax uses it."""
OTHERS = (
    XLA,
    Peer("torch", "cnnjax.benchmark.torch_peer", "torch"),
    Peer("keras", "cnnjax.benchmark.keras_peer", "keras"),
)


VARIANTS = tuple(
    Peer(name, OURS.module, OURS.package, ((variable, value),))
    for name, variable, value in (
        ("one_pass", "CNNJAX_CANDIDATES", "one_pass"),
        ("index", "CNNJAX_CANDIDATES", "index"),
        ("blocks", "CNNJAX_CANDIDATES", "blocks"),
        ("candidates", "CNNJAX_CANDIDATES", "one_pass,index,blocks"),
        ("fusion", "XLA_FLAGS", "--xla_gpu_experimental_enable_conv_fusion=true"),
        ("graphs", "XLA_FLAGS", "--xla_gpu_enable_command_buffer=+CONVOLUTION"),
        ("nhwc", "XLA_FLAGS", "--xla_gpu_force_conv_nhwc=true"),
        ("nchw", "XLA_FLAGS", "--xla_gpu_force_conv_nchw=true"),
        ("untuned", "XLA_FLAGS", "--xla_gpu_autotune_level=0"),
        ("cublas", "XLA_FLAGS", "--xla_gpu_enable_triton_gemm=false"),
    )
)
"""cnnjax with candidates of `cnnjax.ops.dispatch`, or with flags of XLA for GPUs; compared only if asked for."""
PEERS = (*OTHERS, *VARIANTS)


class Job(Schema):
    """The work to measure, the same for every peer."""

    task: Task
    model: str
    image_shape: tuple[int, ...]
    """(H, W, C)."""
    num_classes: int
    batch: int
    dtype: Literal["float32", "bfloat16"] = "float32"
    platform: Platform = "auto"
    devices: int = 1
    """Devices that share the batch; only cnnjax uses several."""

    @property
    def optimizer(self) -> Literal["adam", "momentum"]:
        """Optimizer: adam for LeNet, SGD with momentum 0.9 for all others."""
        return "adam" if self.model == "lenet" else "momentum"

    @property
    def batches(self) -> int:
        """Batches per training epoch; 1 for inference."""
        if self.task == "infer":
            return 1
        height, width, channels = self.image_shape
        return max(1, min(MOST_BATCHES, IMAGE_BYTES // (self.batch * height * width * channels)))

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, scaled to [0, 1]: ImageNet's for three channels, otherwise one number."""
        return (0.485, 0.456, 0.406) if self.image_shape[2] == 3 else (0.5,)

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, like `mean`."""
        return (0.229, 0.224, 0.225) if self.image_shape[2] == 3 else (0.25,)

    def made_up(self) -> tuple[np.ndarray, np.ndarray]:
        """Return an epoch of random uint8 images [N, H, W, C] and int32 labels [N], from a fixed seed."""
        rng = np.random.default_rng(0)
        count = self.batch * self.batches
        images = rng.integers(0, 256, (count, *self.image_shape), dtype=np.uint8)
        return images, rng.integers(0, self.num_classes, count, dtype=np.int32)


class Facts(Schema):
    """Report of a peer that is ready: its network is built, compiled and warmed up."""

    how: str
    """Variant that the peer uses, if there is a choice."""
    packages: tuple[str, ...]
    platform: Platform
    device: str
    threads: int
    parameters: int
    first_step_seconds: Number
    """Duration of the first step (or dispatch), including compilation."""
    step_seconds: Number
    """Approximate seconds per step, measured in the warm-up."""
    granularity: int = 1
    """The number of steps per lap is a multiple of this."""
    multiply_adds: int = 0
    """Multiply-adds of the network for one image; only cnnjax counts them."""
    native: bool = False
    """Whether the native library computes convolutions."""
    peak_rate: Number = 0.0
    """Peak rate of the device in operations per second; only cnnjax reports it."""
    peak_source: str = ""
    """Source of `peak_rate`."""


class Lap(Schema):
    """Result of a lap: its duration, and the peak memory from the warm-up on."""

    seconds: Number
    peak_bytes: int
