"""Build the native convolution: `make native`. Needed: g++ or clang++, and oneDNN with its headers.

Debian, Ubuntu: apt install g++ libdnnl-dev; conda: conda install -c conda-forge gxx onednn; Homebrew: brew
install gcc onednn, CXX=g++-15.
CXX names the compiler, CPATH and LIBRARY_PATH where oneDNN lies if not in the usual places.
"""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

HERE = Path(__file__).parent
LIBRARY = HERE / "libcnnjax.so"
LEVELS = {"v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}
"""winograd.cc is compiled for each, by its namespace, and the library chooses when it is loaded."""


def build() -> None:
    """Compile into this folder; the library is whole or not there."""
    levels = LEVELS if platform.machine() in ("x86_64", "AMD64") else {"generic": []}
    compiler = [os.environ.get("CXX", "g++"), "-std=c++17", "-fPIC", "-fopenmp", f"-isystem{jax.ffi.include_dir()}"]
    try:
        with tempfile.TemporaryDirectory() as folder:
            objects = {name: Path(folder) / f"{name}.o" for name in ("convolution", *levels)}
            _run([*compiler, "-O2", "-c", HERE / "convolution.cc", "-o", objects["convolution"]])
            for name, options in levels.items():
                named = f"-DWINOGRAD_LEVEL={name}"
                _run([*compiler, "-O3", *options, named, "-c", HERE / "winograd.cc", "-o", objects[name]])
            aside = LIBRARY.with_suffix(".writing")
            _run([*compiler, "-shared", *objects.values(), "-o", aside, "-ldnnl"])
            aside.rename(LIBRARY)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: the native part was not built ({error}); {__doc__.partition('Needed: ')[2].strip()}")
    print(f"{LIBRARY} is built; CNNJAX_NATIVE=0 turns it off")


def _run(command: list[str | Path]) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    build()
