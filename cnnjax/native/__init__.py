"""The optional native part: convolution on a CPU by oneDNN, called through XLA's FFI. `make native` builds it."""

from cnnjax.native.convolution import Window, convolution
from cnnjax.native.library import load

__all__ = ["Window", "convolution", "load"]
