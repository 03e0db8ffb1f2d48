"""Entries of environment.json: what the results of a run depend on besides its config."""

import platform
import subprocess
from pathlib import Path
from typing import Any

from cnnjax import parallel
from cnnjax.system.cpus import affinity
from cnnjax.system.versions import version

DECISIVE = ("backend", "device", "devices", "processes", "cpus", "packages.jax", "packages.jaxlib")
"""Fields of an entry that affect the exact bits of a result, in addition to all fields of ``lowering``."""


def environment(lowering: dict[str, Any]) -> dict[str, Any]:
    """Return an entry: versions, device, commit, and the lowering choices."""
    packages = ("cnnjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "machine": f"{platform.system()} {platform.machine()}",
        "cpus": affinity(),
        **parallel.describe(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if (status := _git("status", "--porcelain")) is None else bool(status),
        "lowering": lowering,
    }


def _git(*arguments: str) -> str | None:
    """Return git's output for the checkout of this package, or None if it is not in one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
