"""Build the native library: `make native`. Needed: g++ or clang++, and oneDNN with its headers.

Debian, Ubuntu: apt install g++ libdnnl-dev; conda: conda install -c conda-forge gxx onednn; Homebrew: brew
install gcc onednn, CXX=g++-15.
Set CXX to choose the compiler, and CPATH and LIBRARY_PATH if oneDNN is not in a standard location.
"""

import itertools
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

from cnnjax.ops.native.library import HERE, LIBRARY, seal
from cnnjax.system.files import write_bytes

HANDLERS = ("convolution_handlers", "batch_norm_handlers", "convolution", "onednn_conv")
"""XLA handlers and algorithm selection; built once."""
KERNELS = ("winograd", "few_channel_conv", "batch_norm")
"""Our own kernels; built once per level."""
KERNEL_OPTIONS = ["-fvisibility=hidden", "-fno-predictive-commoning"]
"""Hidden functions can be inlined. Loaded values are not kept across iterations, because the registers are full."""
LEVELS = {"v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}
"""Levels of x86-64 and their flags. Each is a namespace, and the library selects one when it is loaded."""


def build() -> None:
    """Compile into this folder; the library is written atomically."""
    levels = LEVELS if platform.machine() in ("x86_64", "AMD64") else {"generic": []}
    compiler = [os.environ.get("CXX", "g++"), "-std=c++17", "-fPIC", "-fopenmp", f"-isystem{jax.ffi.include_dir()}"]
    try:
        with tempfile.TemporaryDirectory() as folder:
            objects = []
            for name in HANDLERS:
                objects.append(Path(folder) / f"{name}.o")
                _run([*compiler, "-O2", "-c", HERE / f"{name}.cc", "-o", objects[-1]])
            # The lowest level comes first, because the linker keeps the first copy of templates and other duplicates.
            for (level, options), name in itertools.product(levels.items(), KERNELS):
                objects.append(Path(folder) / f"{name}-{level}.o")
                named = [f"-DCNNJAX_LEVEL={level}", *options]
                _run([*compiler, "-O3", *KERNEL_OPTIONS, *named, "-c", HERE / f"{name}.cc", "-o", objects[-1]])
            linked = Path(folder) / LIBRARY.name
            _run([*compiler, "-shared", *objects, "-o", linked, "-ldnnl"])
            whole = linked.read_bytes()
            write_bytes(LIBRARY, whole + seal(whole))
    except (OSError, subprocess.CalledProcessError) as error:
        needed = __doc__.partition("Needed: ")[2].strip()
        sys.exit(f"error: the native library was not built ({error}); install {needed}")
    print(f"{LIBRARY} is built; CNNJAX_NATIVE=0 disables it")


def _run(command: list[str | Path]) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    build()
