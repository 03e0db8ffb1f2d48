"""Rules that select how an operation is computed: by backend, dtype and shape, never by timing.

On an accelerator, XLA computes all operations. On a CPU some of XLA's are slow, and the optional native library
(`cnnjax.ops.native`) is faster for most of them; docs/performance.md has the measurements. `record` returns the
choices for a run's environment.json.

    operation                    accelerator     CPU with native        CPU without
    convolution                  xla             `conv_algorithm`       `conv_algorithm`
    norm and activation after it separate        same pass              separate        (evaluation)
    batch normalization          xla             native                 xla             (training)
    max pooling                  reduce_window   slices                 slices
    steps per dispatch           up to 64        1                      1
    gradient accumulation        loop            unrolled               unrolled
    members of a sweep           stacked         in turn                in turn
    convolution of a stack       members         -                      -

On several CPU devices, the rules are those of a CPU without the native library.

Three candidates for accelerators have not been measured there, and no rule selects them: batch statistics in one pass,
the gradient of max pooling by kept indices, and a strided convolution of few channels as one of 2x2 blocks. With
``CNNJAX_CANDIDATES=one_pass,index,blocks`` XLA's counterparts are replaced, so that `scripts/benchmark.py` can compare
them.
"""

import contextlib
import contextvars
import os
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cnnjax.errors import choose
from cnnjax.ops.native import library
from cnnjax.ops.window import POINTWISE, Window, output_shape, turned
from cnnjax.parallel import devices_of_program

ConvAlgorithm = Literal["xla", "members", "native", "matmul", "patches", "shifts", "blocks"]
NormAlgorithm = Literal["xla", "native", "one_pass"]
PoolAlgorithm = Literal["reduce_window", "slices", "index"]
CANDIDATES = ("one_pass", "index", "blocks")
MOST_BLOCK_CHANNELS = 4
"""Maximum input channels of a convolution that the candidate "blocks" computes."""
SMALLEST_MAP = 4
"""Maximum positions of an output map for the "patches" algorithm."""
FEW_POSITIONS = 1024
"""Maximum positions in a batch for which a matrix product beats the native library, which has to reorder the kernel."""
MOST_PACKED, PACKED_CHANNELS = 8, 128
"""Maximum members in a block-diagonal kernel, and its maximum channels; chosen by arithmetic, not yet measured."""
VECTOR_WIDTH = 16
"""Channels that fill a vector register of oneDNN's kernels."""


def parameter_dtype(dtype: Any) -> Any:
    """Return the dtype of parameters, statistics and logits in a network of ``dtype``: at least float32."""
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


def is_candidate(name: str) -> bool:
    """Return whether ``CNNJAX_CANDIDATES`` selects a candidate.

    Raises:
        UserError: it names something else.
    """
    names = os.environ.get("CNNJAX_CANDIDATES", "").split(",")
    return name in [choose("CNNJAX_CANDIDATES", each, CANDIDATES) for each in names if each]


def is_partitioned() -> bool:
    """Return whether XLA splits the program being traced over several devices (see `cnnjax.parallel`).

    It cannot split the calls of the native library, which are opaque to it.
    """
    return devices_of_program() > 1


def has_kernels(dtype: Any) -> bool:
    """Return whether the native library has its own kernels for ``dtype`` on this machine."""
    usable = jax.default_backend() == "cpu" and dtype == jnp.float32 and not is_partitioned()
    return usable and library.load_kernels() is not None


def conv_library(dtype: Any) -> str:
    """Return the convolution backend: the version of the native library, "xla", or "xla-cpu" with the rules below."""
    if jax.default_backend() != "cpu":
        return "xla"
    loaded = None if is_partitioned() else library.load()
    usable = loaded is not None and (dtype == jnp.float32 or (dtype == jnp.bfloat16 and loaded.has_bfloat16))
    return loaded.version if loaded is not None and usable else "xla-cpu"


def conv_algorithm(images: jax.Array, kernel: jax.Array, window: Window) -> ConvAlgorithm:
    """Return the algorithm for the convolution of [N, H, W, C] with [h, w, C / groups, C'] on this machine."""
    if is_candidate("blocks") and is_strided_on_few_channels(images, kernel, window):
        return "blocks"
    library_name = conv_library(images.dtype)
    if library_name == "xla" or not _is_known(images):
        return "members" if _side_by_side.get() and window.groups == 1 else "xla"
    batch, height, width, _ = output_shape(images, kernel, window)
    if 0 in (batch, height, width):
        return "xla"
    pointwise = kernel.shape[:2] == (1, 1) and window.groups == 1
    if height * width <= SMALLEST_MAP and window.groups == 1:
        return "patches"
    if library_name != "xla-cpu":
        return "matmul" if pointwise and batch * height * width <= FEW_POSITIONS else "native"
    if pointwise:
        return "matmul"
    if window.groups == 1:
        return "xla"
    return "shifts" if kernel.shape[2] == 1 else "patches"


def is_strided_on_few_channels(images: Any, kernel: Any, window: Window) -> bool:
    """Return whether a convolution of stride 2 leaves most lanes of a matrix unit empty, such as the stem's."""
    plain = window.groups == 1 and window.dilation == (1, 1)
    return plain and window.strides == (2, 2) and images.shape[3] <= MOST_BLOCK_CHANNELS and min(kernel.shape[:2]) > 2


def norm_algorithm(dtype: Any) -> NormAlgorithm:
    """Return the algorithm of training-mode batch norm: "native" (CPU, few passes through memory) or "xla"."""
    if is_candidate("one_pass"):
        return "one_pass"
    return "native" if has_kernels(dtype) else "xla"


def pool_algorithm() -> PoolAlgorithm:
    """Return the algorithm of max pooling: on a CPU, slices are many times faster than a windowed reduction."""
    if is_candidate("index"):
        return "index"
    return "slices" if jax.default_backend() == "cpu" else "reduce_window"


def kernel_gradient_is_dot(images: Any, window: Window, spatial: tuple[int, ...]) -> bool:
    """Return whether a matrix product by XLA replaces the native library for a kernel gradient.

    oneDNN is slow for 1x1 kernels whose input channels do not fill its vectors.
    """
    is_pointwise = spatial == (1, 1) and window == POINTWISE
    return is_pointwise and images.shape[3] % VECTOR_WIDTH != 0 and images.dtype == jnp.float32


def input_gradient_is_forward(kernel: Any, window: Window) -> bool:
    """Return whether a depthwise input gradient is computed as a convolution with the rotated kernel.

    oneDNN's own gradient is up to 25 times slower if the channels do not fill its vectors.
    """
    depthwise = kernel.shape[2] == 1 and kernel.shape[3] == window.groups
    return depthwise and window.strides == (1, 1) and min(map(min, turned(kernel, window).padding)) >= 0


def residual_is_a_step(kernel: Any, window: Window) -> bool:
    """Return whether a residual is added in a separate step after the native convolution.

    oneDNN 2.6 may add the wrong elements with groups, or if the output channels do not fill its vectors.
    """
    return window.groups > 1 or kernel.shape[3] % VECTOR_WIDTH != 0


def steps_per_dispatch(backend: str, steps_per_epoch: int) -> int:
    """Return the number of steps per dispatch.

    1 on a CPU, where XLA runs a convolution in a loop about four times slower. More on an accelerator, where a step of
    a small network takes less time than its launch.
    """
    return 1 if backend == "cpu" else min(steps_per_epoch, 64)


def members_are_stacked(backend: str) -> bool:
    """Return whether members of a sweep with one program train in one device call instead of taking turns.

    On a CPU, `vmap` over kernels turns convolutions into grouped ones, which are slower than separate ones in turn.
    """
    return backend != "cpu"


_side_by_side: contextvars.ContextVar[bool] = contextvars.ContextVar("side_by_side", default=False)


@contextlib.contextmanager
def side_by_side() -> Iterator[None]:
    """Trace the functions in it for members that `jax.vmap` stacks, each with its own kernels."""
    token = _side_by_side.set(True)
    try:
        yield
    finally:
        _side_by_side.reset(token)


def members_packed(members: int, inputs: int, outputs: int) -> int:
    """Return how many members share a block-diagonal kernel, by their channels; 1: a grouped convolution by XLA.

    Packing multiplies the arithmetic by this number, which a GPU has to spare while the channels of all the members of
    a pack are at most the `PACKED_CHANNELS` of one tile of a matrix product.
    """
    return max(1, min(members, MOST_PACKED, PACKED_CHANNELS // max(inputs, outputs)))


def is_unrolled(backend: str) -> bool:
    """Return whether the parts of an accumulated gradient are unrolled in the program instead of run in a loop.

    On a CPU they are unrolled, because XLA's convolutions took twenty times as long in a loop.
    """
    return backend == "cpu"


def compiler_options(backend: str) -> dict[str, Any] | None:
    """Return extra XLA compiler options: on a CPU, keep optimization barriers until the program is scheduled.

    XLA would otherwise drop them early, and then recompute a stage or start a part of the batch long before it is
    needed, which would save no memory.
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if backend == "cpu" else None


def compiler_options_of_init(backend: str) -> dict[str, Any] | None:
    """Return extra XLA compiler options for drawing the parameters: on a CPU, optimize less.

    The program runs once, and takes several seconds to compile: in processor time, 3.3 s at the default level and 0.9 s
    at this one for LeNet-5, 24 s and 11 s for GoogLeNet. The parameters have the same bits.
    """
    reduced = backend == "cpu" and not jax.config.read("jax_disable_most_optimizations")
    return {"xla_backend_optimization_level": 1} if reduced else None


def record(dtype: Any, *, accumulates: bool) -> dict[str, str]:
    """Return the choices for a network of ``dtype``, for a run's environment.json."""
    dtype = jnp.dtype(dtype)
    chosen = {
        "convolution": conv_library(dtype), "norm": norm_algorithm(dtype), "max_pool": pool_algorithm(),
    }  # fmt: skip
    if names := os.environ.get("CNNJAX_CANDIDATES"):
        chosen["candidates"] = names
    if accumulates:
        chosen["accumulation"] = "unrolled" if is_unrolled(jax.default_backend()) else "loop"
    return chosen


def _is_known(images: jax.Array) -> bool:
    """Return whether all sizes are numbers; a program exported for any batch size has symbolic ones."""
    return all(isinstance(size, int) for size in images.shape)
