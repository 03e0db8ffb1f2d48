"""Build the native convolution: `make native`. Needed: g++ or clang++, and oneDNN with its headers.

Debian, Ubuntu: apt install g++ libdnnl-dev; conda: conda install -c conda-forge onednn; Homebrew: brew install onednn.
CXX names the compiler, CPATH and LIBRARY_PATH where oneDNN lies if not in the usual places.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax

HERE = Path(__file__).parent
LIBRARY = HERE / "libcnnjax.so"


def build() -> None:
    """Compile into this folder; the library is whole or not there."""
    aside = LIBRARY.with_suffix(".writing")
    command = [
        os.environ.get("CXX", "g++"), "-O2", "-std=c++17", "-shared", "-fPIC", "-fopenmp",
        f"-isystem{jax.ffi.include_dir()}", str(HERE / "convolution.cc"), "-o", str(aside), "-ldnnl",
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: the native part was not built ({error}); {__doc__.partition('Needed: ')[2].strip()}")
    aside.rename(LIBRARY)
    print(f"{LIBRARY} is built; CNNJAX_NATIVE=0 turns it off")


if __name__ == "__main__":
    build()
