"""Every rule that chooses how an operation is computed: by backend, dtype and shape, never by timing.

On an accelerator the operations are XLA's. On a CPU some of XLA's are slow, and the native part (`cnnjax.ops.native`,
optional) is faster for most; docs/performance.md has the figures. `record` is what a run's environment.json holds.

    operation                    accelerator     CPU with native        CPU without
    convolution                  xla             `conv_algorithm`       `conv_algorithm`
    its norm and activation      in steps        in the same pass       in steps        (evaluation)
    depthwise with 1x1           in steps        in one pass            in steps        (evaluation)
    batch normalisation          xla             native                 xla             (training)
    max pooling                  reduce_window   native or slices       slices
    steps in a call              up to 64        1                      1
    parts of a batch             in a loop       one after the other    one after the other
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from cnnjax.ops.native import library
from cnnjax.ops.window import POINTWISE, Window, output_shape, turned

ConvAlgorithm = Literal["xla", "native", "matmul", "patches", "shifts"]
NormAlgorithm = Literal["xla", "native"]
PoolAlgorithm = Literal["reduce_window", "native", "slices"]
SMALLEST_MAP = 4
"""Positions of an output map up to which its patches are gathered and multiplied."""
FEW_POSITIONS = 1024
"""Positions in a batch up to which a product of matrices is faster than the native part, which reorders the kernel."""
VECTOR_WIDTH = 16
"""Channels that fill a vector register of oneDNN's kernels."""


def parameter_dtype(dtype: Any) -> Any:
    """Return the dtype of parameters, statistics and logits in a network of that dtype: float32 at least."""
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


def has_kernels(dtype: Any) -> bool:
    """Return whether the native part has kernels of its own for arrays of that type here."""
    return jax.default_backend() == "cpu" and dtype == jnp.float32 and library.load_kernels() is not None


def conv_library(dtype: Any) -> str:
    """Return what convolutions are computed by: the native part's library, "xla", or "xla-cpu" by the rules here."""
    if jax.default_backend() != "cpu":
        return "xla"
    loaded = library.load()
    usable = loaded is not None and (dtype == jnp.float32 or (dtype == jnp.bfloat16 and loaded.has_bfloat16))
    return loaded.version if loaded is not None and usable else "xla-cpu"


def conv_algorithm(images: jax.Array, kernel: jax.Array, window: Window) -> ConvAlgorithm:
    """Return how the convolution of [N, H, W, C] with [h, w, C / groups, C'] is computed here."""
    by = conv_library(images.dtype)
    if by == "xla" or not _is_known(images):
        return "xla"
    batch, height, width, _ = output_shape(images, kernel, window)
    if 0 in (batch, height, width):
        return "xla"
    pointwise = kernel.shape[:2] == (1, 1) and window.groups == 1
    if height * width <= SMALLEST_MAP and window.groups == 1:
        return "patches"
    if by != "xla-cpu":
        return "matmul" if pointwise and batch * height * width <= FEW_POSITIONS else "native"
    if pointwise:
        return "matmul"
    if window.groups == 1:
        return "xla"
    return "shifts" if kernel.shape[2] == 1 else "patches"


def separable_algorithm(images: jax.Array) -> Literal["native", "steps"]:
    """Return how a separable convolution of [N, H, W, C] is evaluated: in one pass, "native", or in "steps"."""
    return "native" if _is_known(images) and has_kernels(images.dtype) else "steps"


def norm_algorithm(dtype: Any) -> NormAlgorithm:
    """Return how a batch is normalised in training: "native", on a CPU in few passes through memory, or "xla"."""
    return "native" if has_kernels(dtype) else "xla"


def pool_algorithm(dtype: Any) -> PoolAlgorithm:
    """Return how windows are pooled: on a CPU by the native part or, as it has none for bfloat16, by strided slices.

    Slices are many times faster there than a windowed reduction, the native part is three times faster than slices.
    """
    if jax.default_backend() != "cpu":
        return "reduce_window"
    return "native" if has_kernels(dtype) else "slices"


def kernel_gradient_is_dot(images: Any, window: Window, spatial: tuple[int, ...]) -> bool:
    """Return whether XLA's matrix product computes a kernel gradient in place of the native part.

    oneDNN is slow for 1x1 kernels whose input channels do not fill its vectors; with many channels the native part has
    a kernel of its own where the processor does.
    """
    is_pointwise = spatial == (1, 1) and window == POINTWISE
    kernels = library.load_kernels()
    has_own = kernels is not None and images.shape[3] >= kernels.bound("conv1x1_weight_grad_channels")
    return is_pointwise and not has_own and images.shape[3] % VECTOR_WIDTH != 0 and images.dtype == jnp.float32


def input_gradient_is_forward(kernel: Any, window: Window) -> bool:
    """Return whether the input gradient of a depthwise convolution is computed as a convolution by the turned kernel.

    oneDNN's own is up to 25 times slower where channels do not fill its vectors.
    """
    depthwise = kernel.shape[2] == 1 and kernel.shape[3] == window.groups
    return depthwise and window.strides == (1, 1) and min(map(min, turned(kernel, window).padding)) >= 0


def residual_is_a_step(images: Any, kernel: Any, window: Window) -> bool:
    """Return whether a residual is added after the native convolution rather than in its pass.

    oneDNN 2.6 may add the wrong elements in groups, or where output channels do not fill its vectors; a 1x1 kernel of
    our own has no such bound.
    """
    is_pointwise = kernel.shape[:2] == (1, 1) and window.groups == 1 and images.dtype == jnp.float32
    has_own = is_pointwise and library.load_kernels() is not None
    return not has_own and (window.groups > 1 or kernel.shape[3] % VECTOR_WIDTH != 0)


def steps_per_dispatch(backend: str, steps_per_epoch: int) -> int:
    """Return how many steps go to the device in one call.

    On a CPU one: XLA runs a convolution inside a loop about four times slower there. On an accelerator many, since a
    step of a small network takes less time than its launch.
    """
    return 1 if backend == "cpu" else min(steps_per_epoch, 64)


def is_unrolled(backend: str) -> bool:
    """Return whether the parts of an accumulated gradient stand one after another in the program, not in a loop.

    On a CPU they do: in a loop, XLA's convolutions took twenty times as long there.
    """
    return backend == "cpu"


def compiler_options(backend: str) -> dict[str, Any] | None:
    """Return extra XLA compiler options: on a CPU, keep optimization barriers until the program is scheduled.

    XLA would drop them before, and then compute a stage again, or begin a part of the batch, long before it is needed:
    nothing would be saved.
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if backend == "cpu" else None


def record(dtype: Any, *, accumulates: bool) -> dict[str, str]:
    """Return the rules' choices for a network of that dtype, for a run's environment.json."""
    dtype = jnp.dtype(dtype)
    chosen = {
        "convolution": conv_library(dtype), "norm": norm_algorithm(dtype), "max_pool": pool_algorithm(dtype),
    }  # fmt: skip
    if accumulates:
        chosen["accumulation"] = "unrolled" if is_unrolled(jax.default_backend()) else "loop"
    return chosen


def _is_known(images: jax.Array) -> bool:
    """Return whether all sizes are numbers; a program may be exported for any batch."""
    return all(isinstance(size, int) for size in images.shape)
