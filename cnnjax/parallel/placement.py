"""Device placement. Only this file selects devices.

A `Placement` holds a device mesh and decides where the state, the batches and the results live. The mesh has a single
axis, ``data``: each device holds an equal share of every batch and a copy of the state. A single device is a mesh of
one. `current_placement` is that of this process: all its devices, unless `use_devices` limits them. In the context
`all_processes` it holds the devices of every process of the training, in the order of the processes.

JAX partitions a program itself. `split_batch` and `replicate` in a program say which of its values are split over the
devices; every sum over a batch, such as a gradient or the statistics of batch normalization, is then computed over the
devices too. Outside the context `Placement.active` they return their argument, and the program is that of one device.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from cnnjax.errors import UserError

DATA_AXIS = "data"
REPLICATED = PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Placement:
    """A device mesh, and where each kind of array is placed on it."""

    mesh: Mesh

    @property
    def count(self) -> int:
        """Number of devices."""
        return self.mesh.size

    @property
    def spans_processes(self) -> bool:
        """Whether some of the devices belong to other processes."""
        return self.mesh.is_multi_process

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which a function is called that runs on all devices of the mesh."""
        return contextlib.nullcontext() if self.count == 1 else jax.set_mesh(self.mesh)

    def put(self, tree: Any) -> Any:
        """Place a copy of the tree's arrays on each device.

        On a mesh of one, arrays stay uncommitted: a jitted function of committed arrays is a different program, and a
        resumed run has to use the same program as an uninterrupted one.
        """
        if self.count == 1:
            return jax.tree.map(jax.device_put, tree)
        sharding = NamedSharding(self.mesh, REPLICATED)
        if not self.spans_processes:
            return jax.device_put(tree, sharding)
        return jax.tree.map(lambda leaf: _from_this_process(leaf, sharding, 1), tree)

    def spread(self, tree: Any) -> Any:
        """Return arrays of one device with a copy on each device; on a mesh of one, return them unchanged."""
        return tree if self.count == 1 else self.put(tree)

    def split(self, tree: Any, axis: int = 0) -> Any:
        """Split the tree's arrays over the devices along ``axis``, whose length is a `multiple`.

        If the mesh spans several processes, the arrays are the `share` of this process.
        """
        if self.count == 1:
            return self.put(tree)
        sharding = NamedSharding(self.mesh, PartitionSpec(*[None] * axis, DATA_AXIS))
        if not self.spans_processes:
            return jax.device_put(tree, sharding)
        return jax.tree.map(lambda leaf: _from_this_process(leaf, sharding, self.count, axis), tree)

    def share(self, length: int) -> slice:
        """Return the part of an axis of a batch that the devices of this process hold; ``length`` is a `multiple`."""
        first, own = _own_devices(self.mesh)
        each = length // self.count
        return slice(first * each, (first + own) * each)

    def multiple(self, size: int) -> int:
        """Return the smallest multiple of the number of devices that is at least ``size``."""
        return round_up(size, self.count)

    def restored(self, tree: Any) -> Any:
        """Return arrays that a library has committed to a device as arrays of one device, uncommitted."""
        return jax.tree.map(lambda leaf: jax.device_put(np.array(leaf)), tree)

    def saved(self, tree: Any) -> Any:
        """Return replicated arrays in the form in which orbax saves them, so that it does not depend on the mesh.

        They are arrays of one device or, on several processes, of the host: orbax saves others only from all processes.
        """
        return jax.tree.map(np.asarray, tree) if jax.process_count() > 1 else self.local(tree)

    def local(self, tree: Any) -> Any:
        """Return replicated arrays as arrays of one device of this process."""
        return tree if self.count == 1 else jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def abstract(self, tree: Any) -> Any:
        """Return the shapes and dtypes of a tree, with the sharding in which a library should restore its arrays."""
        sharding = SingleDeviceSharding(self.mesh.devices.flat[0])
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _own_devices(mesh: Mesh) -> tuple[int, int]:
    """Return the position in the mesh of this process's first device, and the number of its devices."""
    own = [number for number, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    return own[0], len(own)


def _from_this_process(leaf: Any, sharding: NamedSharding, parts: int, axis: int = 0) -> jax.Array:
    """Return an array of several processes from the part of this process, of ``parts`` along ``axis``.

    Unlike `jax.device_put`, it does not compare the values between the processes, so a thread may call it.
    """
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    local = np.asarray(leaf)
    local = local.astype(jax.dtypes.canonicalize_dtype(local.dtype), copy=False)
    shape = list(local.shape)
    if parts > 1:
        shape[axis] = shape[axis] // _own_devices(sharding.mesh)[1] * parts  # type: ignore[arg-type]
    return jax.make_array_from_process_local_data(sharding, local, tuple(shape))


def round_up(size: int, divisor: int) -> int:
    """Return the smallest multiple of ``divisor`` that is at least ``size``."""
    return -(-size // divisor) * divisor


_limit: int | None = None
_together = False


def use_devices(count: int | None) -> None:
    """Limit this process to its first ``count`` devices; None: use all.

    Raises:
        UserError: there are fewer devices.
    """
    global _limit
    present = len(jax.local_devices())
    if count is not None and not 1 <= count <= present:
        backend = jax.default_backend()
        raise UserError(
            f"--devices is {count}; this machine has one {backend} device, so leave --devices out or give 1"
            if present == 1
            else f"--devices is {count}; it must be 1 to {present}, the number of {backend} devices here"
        )
    _limit = count


@contextlib.contextmanager
def all_processes(together: bool = True) -> Iterator[None]:
    """Make `current_placement` hold the devices of all processes, which then must call the same programs in order.

    With ``together`` False, inside such a context, it holds those of this process again.
    """
    global _together
    before, _together = _together, together
    try:
        yield
    finally:
        _together = before


def current_placement() -> Placement:
    """Return the placement of this process or, in the context `all_processes`, of all processes."""
    processes = range(jax.process_count()) if _together else [jax.process_index()]
    devices = [device for process in processes for device in jax.local_devices(process)[:_limit]]
    return Placement(Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,)))


def devices_of_program() -> int:
    """Return the number of devices for which the program is compiled that is being traced."""
    return max(1, jax.sharding.get_abstract_mesh().size)


def split_batch(tree: Any, axis: int = 0) -> Any:
    """Split arrays in a program over the devices along ``axis``; the devices need not divide its length."""
    return _constrained(tree, PartitionSpec(*[None] * axis, DATA_AXIS))


def replicate(tree: Any) -> Any:
    """Place a copy of arrays in a program on each device."""
    return _constrained(tree, REPLICATED)


def _constrained(tree: Any, spec: PartitionSpec) -> Any:
    return tree if devices_of_program() == 1 else jax.lax.with_sharding_constraint(tree, spec)


def device_memory() -> int | None:
    """Return the device memory in bytes, or None if the device does not report it, as on a CPU."""
    return (memory_statistics() or {}).get("bytes_limit")


def memory_statistics() -> dict[str, int] | None:
    """Return the device's memory statistics in bytes, or None on a CPU."""
    return jax.local_devices()[0].memory_stats()


def device_kind() -> str:
    """Return the device's name, such as ``NVIDIA H100 80GB HBM3`` or ``cpu``."""
    return jax.local_devices()[0].device_kind


def describe() -> dict[str, Any]:
    """Return the backend, the device and the numbers of devices and processes in use, for the record of a run."""
    with all_processes():
        devices = current_placement().count
    return {
        "backend": jax.default_backend(),
        "device": device_kind(),
        "devices": devices,
        "processes": jax.process_count(),
    }


def on_cpu() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which arrays and single operations live on the CPU, whatever the platform."""
    return jax.default_device(jax.local_devices(backend="cpu")[0])


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
