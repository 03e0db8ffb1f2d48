"""Where computation happens: the only file that names devices.

A `Placement` holds a mesh of devices and says where the state, the batches and the results live. One device is a mesh
of one. The mesh has the single axis ``batch``: each device takes an equal share of a batch and a copy of the state.
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
    """A mesh of devices and the place of each kind of array on it."""

    mesh: Mesh

    def put(self, tree: Any) -> Any:
        """Return the tree's arrays on the devices, a copy on each.

        Arrays for a mesh of one stay uncommitted: a jitted function with committed arrays is another program, and a
        resumed training has to run the program of one that was never stopped.
        """
        return jax.tree.map(jax.device_put, tree)

    def restored(self, tree: Any) -> Any:
        """Return arrays that a library bound to their device as `put` would have placed them."""
        return jax.tree.map(lambda leaf: jax.device_put(np.array(leaf)), tree)

    def abstract(self, tree: Any) -> Any:
        """Return the shapes and dtypes of a tree with the place at which a library shall restore its arrays."""
        place = SingleDeviceSharding(self.mesh.devices.flat[0])
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)


def one_device() -> Placement:
    """Return the placement on the first device: a mesh of one."""
    return Placement(Mesh(np.array(jax.devices()[:1]), (BATCH_AXIS,), axis_types=(AxisType.Auto,)))


def device_memory() -> int | None:
    """Return the bytes of memory that the device reports; None where it reports none, as a CPU does."""
    return (memory_statistics() or {}).get("bytes_limit")


def memory_statistics() -> dict[str, int] | None:
    """Return what the device reports about its memory, in bytes; None on a CPU."""
    return jax.devices()[0].memory_stats()


def device_kind() -> str:
    """Return the device's name, such as ``NVIDIA H100 80GB HBM3`` or ``cpu``."""
    return jax.devices()[0].device_kind


def describe() -> dict[str, Any]:
    """Return backend, device and number of devices, for a run's record."""
    return {"backend": jax.default_backend(), "device": device_kind(), "devices": len(jax.devices())}


def use_platform(platform: str) -> None:
    """Compute on ``auto``, ``cpu``, ``cuda`` or ``tpu``; must come before anything is computed.

    Raises:
        UserError: JAX has no such platform here.
    """
    if platform == "auto":
        return
    jax.config.update("jax_platforms", platform)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # jax raises the second where the platform's plugin is missing
        raise UserError(
            f"--platform {platform} is not available here; use --platform cpu, or on a machine that has "
            f"one make env PLATFORM={platform} (docs/accelerators.md)"
        ) from error
