"""The processor cores that this process may use."""

import math
import os
from pathlib import Path


def affinity() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the number of cores that this process may use: its affinity, limited by the container's quota."""
    try:
        quota, period = quota_file.read_text().split()
        return max(1, min(affinity(), math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return affinity()
