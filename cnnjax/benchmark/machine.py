"""The machine: processor name, cores, memory of this process, peak rates of GPUs. Does not import JAX."""

import ctypes
import gc
import platform
import re
import resource
import sys
from pathlib import Path

from cnnjax.system.cpus import affinity

TERA = 1e12
PUBLISHED = {
    "A100": (156, 312),
    "H100 PCIe": (378, 756),
    "H100": (494.5, 989),
    "H200": (494.5, 989),
    "L40S": (183, 362),
    "L4": (60, 121),
}
"""Dense peak rates in TFLOP/s by a part of the device name: float32 (as TF32, in which libraries compute convolutions
on these GPUs) and bfloat16. Source: the vendor's data sheets, which for all but the A100 print twice these rates, with
sparsity. The first match counts."""


def published_rate(device: str, dtype: str) -> float | None:
    """Return the peak rate in operations per second from the vendor's data sheet, or None for an unlisted device."""
    for name, (float32, bfloat16) in PUBLISHED.items():
        if name in device:
            return TERA * (bfloat16 if dtype == "bfloat16" else float32)
    return None


def processor() -> str:
    """Return the processor's name and the number of usable cores."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return f"{match[1] if match else platform.processor() or platform.machine()}, {affinity()} cores"


def description() -> str:
    """Return processor, cores, operating system and Python version as text."""
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.platform(terse=True)
    return f"{processor()}, {system}, Python {platform.python_version()}"


def forget_peak_memory() -> None:
    """Return unused memory to the system and restart the count of `peak_memory`, where supported (Linux)."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pass  # the peak then includes the compilation


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
