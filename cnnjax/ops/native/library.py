"""Load the native library; print a one-line notice if it cannot be used."""

import contextlib
import ctypes
import functools
import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.errors import choose
from cnnjax.system.cpus import cores

HERE = Path(__file__).parent
LIBRARY = HERE / "libcnnjax.so"
HANDLERS = {
    "cnnjax_convolution": "CnnjaxConvolution",
    "cnnjax_convolution_with_epilogue": "CnnjaxConvolutionWithEpilogue",
    "cnnjax_batch_norm": "CnnjaxBatchNorm",
    "cnnjax_batch_norm_gradient": "CnnjaxBatchNormGradient",
}
"""Handlers by their names in XLA; the values are the symbols in the library."""

F32 = np.dtype(np.float32)
KERNELS = 7
"""Version of our own kernels; results may differ bitwise between versions."""
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that limit oneDNN to older instruction sets."""


class Library:
    """The loaded library, with its handlers registered in XLA."""

    def __init__(self, path: Path):
        import jax

        with _sleeping_threads():
            loaded = ctypes.CDLL(str(path))
        for target, symbol in HANDLERS.items():
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(loaded, symbol)), platform="cpu")
        self.threads = loaded.cnnjax_set_threads(cores())
        version = loaded.cnnjax_onednn_version()
        self.version = f"oneDNN {version // 100}.{version % 100}"
        limits = [f"{name}={os.environ[name]}" for name in ISA_LIMITS if name in os.environ]
        self.version += "".join(f" with {limit}" for limit in limits)
        self.has_kernels = bool(loaded.cnnjax_has_kernels())
        self.is_wide = bool(loaded.cnnjax_has_avx512())
        """Whether vectors hold 16 floats."""
        if self.has_kernels:
            self.version += f" and cnnjax kernels v{KERNELS}{' (AVX-512)' if self.is_wide else ''}"
        self.version += f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        """Version string, including everything that determines the bits of a result."""
        self._calls, self._bound = loaded.cnnjax_calls, loaded.cnnjax_bound
        for function in (self._calls, self._bound):
            function.argtypes, function.restype = [ctypes.c_char_p], ctypes.c_int64
        self.has_bfloat16 = bool(loaded.cnnjax_has_bfloat16())

    def calls(self, algorithm: str) -> int:
        """Return the number of convolutions that an algorithm of convolution.cc has computed."""
        return _known(algorithm, self._calls(algorithm.encode()))

    def bound(self, name: str) -> int:
        """Return a bound of the rules in convolution.cc, the only place where these numbers are defined."""
        return _known(name, self._bound(name.encode()))


def _known(name: str, number: int) -> int:
    if number < 0:
        raise ValueError(f"{name!r} is not defined in convolution.cc")
    return number


def load() -> Library | None:
    """Return the library, or None if it is disabled by ``CNNJAX_NATIVE=0``, missing or broken (with one notice).

    Raises:
        UserError: CNNJAX_NATIVE is neither 0 nor 1.
    """
    with _loading:
        return _load()


_loading = threading.Lock()


@functools.cache
def _load() -> Library | None:
    if choose("CNNJAX_NATIVE", os.environ.get("CNNJAX_NATIVE") or "1", ("0", "1")) == "0":
        return None
    try:
        if not LIBRARY.exists():
            reason = "is not built, and XLA's convolutions are several times slower"
        elif not _is_intact_and_current(LIBRARY):
            reason = "was built from other sources, or is damaged"
        else:
            return Library(LIBRARY)
    except (OSError, AttributeError, RuntimeError) as error:
        reason = f"cannot be used ({str(error).partition(chr(10))[0]})"
    print(
        f"notice: the native library {reason}; build it with python -m {__package__}.build, or disable it with "
        "CNNJAX_NATIVE=0",
        file=sys.stderr,
    )
    return None


def seal(library: bytes) -> bytes:
    """Return the trailer of an intact library that was built from these sources."""
    digest = hashlib.sha256(library)
    for path in sorted([*HERE.glob("*.cc"), *HERE.glob("*.h"), HERE / "build.py"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return b"cnnjax " + digest.hexdigest().encode()


def _is_intact_and_current(library: Path) -> bool:
    """Return whether a library is safe to load: a damaged one kills the process, a stale one silently changes bits."""
    content = library.read_bytes()
    length = len(seal(b""))
    return content[-length:] == seal(content[:-length])


def check_arrays(**parts: tuple[Any, tuple[int, ...], Any]) -> None:
    """Check the shapes and dtypes of arrays that are not None, because the library reads memory unchecked."""
    for name, (array, shape, dtype) in parts.items():
        if array is not None and (array.shape, array.dtype) != (shape, dtype):
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}; it must be {dtype}{list(shape)}")


def load_kernels() -> Library | None:
    """Return the library if it has its own kernels for this processor, else None."""
    library = load()
    return library if library is not None and library.has_kernels else None


@contextlib.contextmanager
def _sleeping_threads() -> Iterator[None]:
    """Make OpenMP, which reads its settings when it is loaded, put idle threads to sleep.

    Otherwise they spin for a while after each convolution and take the cores from XLA's next operations.
    """
    name = "OMP_WAIT_POLICY"
    if name in os.environ:
        yield
        return
    os.environ[name] = "passive"
    try:
        yield
    finally:
        del os.environ[name]
