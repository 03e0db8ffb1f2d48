"""Run a script in a process that may take only so many MB more than JAX alone: python limited.py MB SCRIPT ..."""

import resource
import runpy
import sys
from pathlib import Path

import jax

if __name__ == "__main__":
    jax.devices()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + int(sys.argv[1]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
