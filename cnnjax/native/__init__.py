"""The optional native part for CPUs, called through XLA's FFI; `make native` builds it."""

from cnnjax.native.batch_norm import batch_norm
from cnnjax.native.convolution import Window, convolution, output_shape
from cnnjax.native.epilogue import NONLINEARITIES, convolution_with_epilogue
from cnnjax.native.library import load

__all__ = ["NONLINEARITIES", "Window", "batch_norm", "convolution", "convolution_with_epilogue", "load", "output_shape"]
