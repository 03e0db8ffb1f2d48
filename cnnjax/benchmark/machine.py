"""The machine: its name, its cores, the memory of this process, what a GPU could compute. Nothing here needs JAX."""

import ctypes
import gc
import os
import platform
import re
import resource
import sys
from pathlib import Path

TERA = 1e12
PUBLISHED = {
    "A100": (156, 312),
    "H100 PCIe": (378, 756),
    "H100": (494.5, 989),
    "H200": (494.5, 989),
    "L40S": (183, 362),
    "L4": (60, 121),
}
"""Dense tera-operations a second by a part of the device's name: float32 (as TF32, which is what libraries compute
convolutions in on these GPUs) and bfloat16. Source: the vendor's data sheets, which print twice as much, with
sparsity, for all but the A100. The first name that fits counts."""


def published_rate(device: str, dtype: str) -> float | None:
    """Return the operations a second that the vendor's data sheet gives, or None where the device is not listed."""
    for name, (float32, bfloat16) in PUBLISHED.items():
        if name in device:
            return TERA * (bfloat16 if dtype == "bfloat16" else float32)
    return None


def cores() -> int:
    """Return how many CPU cores this process may use; XLA and torch make as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the processor's name and the cores at hand."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return f"{match[1] if match else platform.processor() or platform.machine()}, {cores()} cores"


def description() -> str:
    """Return the processor, its cores, the operating system and Python in words."""
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.platform(terse=True)
    return f"{processor()}, {system}, Python {platform.python_version()}"


def forget_peak_memory() -> None:
    """Give unused memory back to the system and let `peak_memory` count from here, where the system can (Linux)."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pass  # the peak then holds the compilation, too


def peak_memory() -> int:
    """Return the largest resident memory of this process in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
