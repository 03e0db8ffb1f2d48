"""The optional native part for CPUs, called through XLA's FFI; `make native` builds it."""

from cnnjax.native.batch_norm import batch_norm
from cnnjax.native.convolution import Window, convolution, output_shape
from cnnjax.native.epilogue import NONLINEARITIES, convolution_with_epilogue
from cnnjax.native.library import load, load_kernels
from cnnjax.native.pooling import LARGEST_POOL, max_pool
from cnnjax.native.separable import POINTWISE, separable_convolution

__all__ = [
    "LARGEST_POOL", "NONLINEARITIES", "POINTWISE", "Window", "batch_norm", "convolution", "convolution_with_epilogue",
    "load", "load_kernels", "max_pool", "output_shape", "separable_convolution",
]  # fmt: skip
