"""Run a script with a memory limit MB megabytes above what JAX itself needs: python limited.py MB SCRIPT ..."""

import resource
import runpy
import sys
from pathlib import Path

import jax

if __name__ == "__main__":
    jax.devices()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(sys.argv[1]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
