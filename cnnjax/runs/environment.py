"""What a run's figures depend on besides its config: an entry of environment.json."""

import platform
import subprocess
from pathlib import Path
from typing import Any

from cnnjax import parallel
from cnnjax.system.cpus import affinity
from cnnjax.system.versions import version

DECISIVE = ("backend", "device", "cpus", "packages.jax", "packages.jaxlib")
"""What in an entry decides the bits of a result, besides everything in its lowering."""


def environment(lowering: dict[str, Any]) -> dict[str, Any]:
    """Return what a figure depends on besides the config: versions, device, commit, and the lowering choices."""
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
    """Return what git says of the checkout this package lies in, or None where it lies in none."""
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
