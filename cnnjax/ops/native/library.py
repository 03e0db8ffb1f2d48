"""The native library: found, loaded and set to the cores at hand, or left alone with one line of notice."""

import contextlib
import ctypes
import functools
import hashlib
import math
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.errors import choose

HERE = Path(__file__).parent
LIBRARY = HERE / "libcnnjax.so"
HANDLERS = {
    "cnnjax_convolution": "CnnjaxConvolution",
    "cnnjax_convolution_with_epilogue": "CnnjaxConvolutionWithEpilogue",
    "cnnjax_separable": "CnnjaxSeparable",
    "cnnjax_batch_norm": "CnnjaxBatchNorm",
    "cnnjax_batch_norm_gradient": "CnnjaxBatchNormGradient",
    "cnnjax_max_pool": "CnnjaxMaxPool",
    "cnnjax_max_pool_take": "CnnjaxMaxPoolTake",
    "cnnjax_max_pool_put": "CnnjaxMaxPoolPut",
}
"""What XLA calls them, and what the library does."""

F32 = np.dtype(np.float32)
KERNELS = 6
"""The version of the kernels of our own: another one may give other bits."""
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables by which oneDNN takes older instructions than the processor has."""


class Library:
    """The loaded library, whose handlers are known to XLA."""

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
        """Whether vectors have 16 floats."""
        if self.has_kernels:
            self.version += f" and own kernels {KERNELS}{' (AVX-512)' if self.is_wide else ''}"
        self.version += f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        """With all that decides the bits of a result."""
        self._calls, self._bound = loaded.cnnjax_calls, loaded.cnnjax_bound
        for function in (self._calls, self._bound):
            function.argtypes, function.restype = [ctypes.c_char_p], ctypes.c_int64
        self.has_bfloat16 = bool(loaded.cnnjax_has_bfloat16())

    def calls(self, algorithm: str) -> int:
        """Return how many convolutions an algorithm of convolution.cc has computed."""
        return _known(algorithm, self._calls(algorithm.encode()))

    def bound(self, name: str) -> int:
        """Return a bound of the rules in convolution.cc, which alone has the numbers."""
        return _known(name, self._bound(name.encode()))


def _known(name: str, number: int) -> int:
    if number < 0:
        raise ValueError(f"convolution.cc has no {name!r}")
    return number


def load() -> Library | None:
    """Return the library, or None where it is turned off by ``CNNJAX_NATIVE=0``, missing or broken (said once).

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
            told = "is not built, and XLA's convolutions are several times slower"
        elif not _is_whole_and_of_these_sources(LIBRARY):
            told = "was built from other sources, or is damaged"
        else:
            return Library(LIBRARY)
    except (OSError, AttributeError, RuntimeError) as error:
        told = f"cannot be used ({str(error).partition(chr(10))[0]})"
    print(f"notice: the native part {told}; make native builds it, CNNJAX_NATIVE=0 goes without it", file=sys.stderr)
    return None


def seal(library: bytes) -> bytes:
    """Return what stands behind a library that is whole and was built from the sources here."""
    digest = hashlib.sha256(library)
    for path in sorted([*HERE.glob("*.cc"), *HERE.glob("*.h"), HERE / "build.py"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return b"cnnjax " + digest.hexdigest().encode()


def _is_whole_and_of_these_sources(library: Path) -> bool:
    """Say whether it can be loaded: a damaged library ends the process, and an older one gives other bits unnoticed."""
    content = library.read_bytes()
    length = len(seal(b""))
    return content[-length:] == seal(content[:-length])


def check_arrays(**parts: tuple[Any, tuple[int, ...], Any]) -> None:
    """Check shapes and types of arrays, those that there are: the library reads what should be there without asking."""
    for name, (array, shape, dtype) in parts.items():
        if array is not None and (array.shape, array.dtype) != (shape, dtype):
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)} where {dtype}{list(shape)} is needed")


def load_kernels() -> Library | None:
    """Return the library where it has kernels of our own for this processor."""
    library = load()
    return library if library is not None and library.has_kernels else None


@contextlib.contextmanager
def _sleeping_threads() -> Iterator[None]:
    """Let OpenMP, which reads its settings when it is loaded, put idle threads to sleep.

    They would otherwise spin for a while after each convolution, and take the cores from what XLA computes next.
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


def cores(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many cores this process may use: those it is bound to, and no more than its container's share."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        return max(1, min(bound, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return bound
