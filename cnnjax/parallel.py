"""Device placement. Only this file selects devices.

A `Placement` holds a device mesh and decides where the state, the batches and the results live. The mesh has a single
axis, ``batch``: each device holds an equal share of every batch and a copy of the state. A single device is a mesh of
one.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, SingleDeviceSharding

from cnnjax.errors import UserError

BATCH_AXIS = "batch"


@dataclasses.dataclass(frozen=True)
class Placement:
    """A device mesh, and where each kind of array is placed on it."""

    mesh: Mesh

    def put(self, tree: Any) -> Any:
        """Place a copy of the tree's arrays on each device.

        On a mesh of one, arrays stay uncommitted: a jitted function of committed arrays is a different program, and a
        resumed run has to use the same program as an uninterrupted one.
        """
        return jax.tree.map(jax.device_put, tree)

    def restored(self, tree: Any) -> Any:
        """Return arrays that a library has committed to a device, placed as `put` would have placed them."""
        return jax.tree.map(lambda leaf: jax.device_put(np.array(leaf)), tree)

    def abstract(self, tree: Any) -> Any:
        """Return the shapes and dtypes of a tree, with the sharding in which a library should restore its arrays."""
        sharding = SingleDeviceSharding(self.mesh.devices.flat[0])
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def one_device() -> Placement:
    """Return the placement on the first device, a mesh of one."""
    return Placement(Mesh(np.array(jax.devices()[:1]), (BATCH_AXIS,), axis_types=(AxisType.Auto,)))


def device_memory() -> int | None:
    """Return the device memory in bytes, or None if the device does not report it, as on a CPU."""
    return (memory_statistics() or {}).get("bytes_limit")


def memory_statistics() -> dict[str, int] | None:
    """Return the device's memory statistics in bytes, or None on a CPU."""
    return jax.devices()[0].memory_stats()


def device_kind() -> str:
    """Return the device's name, such as ``NVIDIA H100 80GB HBM3`` or ``cpu``."""
    return jax.devices()[0].device_kind


def describe() -> dict[str, Any]:
    """Return the backend, the device and the number of devices, for the record of a run."""
    return {"backend": jax.default_backend(), "device": device_kind(), "devices": len(jax.devices())}


def use_platform(platform: str) -> None:
    """Select the platform: ``auto``, ``cpu``, ``cuda`` or ``tpu``. Call it before the first computation.

    Raises:
        UserError: the platform is not available.
    """
    if platform == "auto":
        return
    jax.config.update("jax_platforms", platform)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: the platform's plugin is missing
        raise UserError(
            f"--platform {platform} is not available here; use --platform cpu, or install JAX for it with "
            f"make env PLATFORM={platform} on a machine with that hardware (docs/accelerators.md)"
        ) from error
