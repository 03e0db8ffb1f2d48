"""Devices and processes. Only this package names them.

`placement` holds the mesh and decides where arrays live; `processes` is what the processes of one training exchange.
"""

from cnnjax.parallel.placement import (
    Placement,
    all_processes,
    current_placement,
    describe,
    device_kind,
    device_memory,
    devices_of_program,
    memory_statistics,
    on_cpu,
    replicate,
    round_up,
    split_batch,
    use_devices,
    use_platform,
)

__all__ = [
    "Placement",
    "all_processes",
    "current_placement",
    "describe",
    "device_kind",
    "device_memory",
    "devices_of_program",
    "memory_statistics",
    "on_cpu",
    "replicate",
    "round_up",
    "split_batch",
    "use_devices",
    "use_platform",
]
