"""Helpers for the peers on JAX, cnnjax and Keras: device, memory, and queued calls."""

import functools
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax import parallel
from cnnjax.benchmark import machine
from cnnjax.benchmark.work import Facts
from cnnjax.cli import Platform
from cnnjax.data.loader import IN_FLIGHT
from cnnjax.system.cpus import affinity
from cnnjax.system.versions import version

PLATFORMS: dict[str, Platform] = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
PRODUCT_SIDE, PRODUCT_SECONDS = 2048, 0.5


def device(platform: Platform) -> str:
    """Return the name of the accelerator or, on a CPU, of the processor; this process then occupies the device."""
    parallel.use_platform(platform)
    return machine.processor() if jax.default_backend() == "cpu" else parallel.device_kind()


def facts(*, how: str, packages: tuple[str, ...], parameters: int, first_step_seconds: float) -> Facts:
    """Return the facts of a peer on JAX."""
    return Facts(
        how=how,
        packages=tuple(f"{name} {version(name)}" for name in packages),
        platform=PLATFORMS[jax.default_backend()],
        device=parallel.device_kind(),
        threads=affinity(),
        parameters=parameters,
        first_step_seconds=first_step_seconds,
        step_seconds=first_step_seconds,
    )


def queued(call: Callable[[], Any], times: int) -> None:
    """Call ``times`` times and wait for the device; a few calls may be in flight, as in `cnnjax.training.loop`."""
    in_flight: deque[Any] = deque()
    for _ in range(times):
        in_flight.append(call())
        if len(in_flight) > IN_FLIGHT:
            jax.block_until_ready(in_flight.popleft())
    jax.block_until_ready(list(in_flight))


def peak_bytes() -> int:
    """Return the peak memory: of the device if it reports it, otherwise of this process."""
    stats = parallel.memory_statistics() or {}
    return int(stats.get("peak_bytes_in_use") or machine.peak_memory())


def peak_rate(dtype: str) -> tuple[float, str]:
    """Return the peak rate of the device in operations per second, and its source."""
    published = machine.published_rate(parallel.device_kind(), dtype)
    if published is not None:
        return published, "the vendor's data sheet"
    side = PRODUCT_SIDE
    square = jnp.ones((side, side), dtype)
    product = jax.jit(functools.partial(jnp.dot, square))
    jax.block_until_ready(product(square))
    seconds: list[float] = []
    while sum(seconds) < PRODUCT_SECONDS:
        started = time.perf_counter()
        jax.block_until_ready(product(square))
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds), f"a product of two {side}x{side} matrices by XLA, measured in the same run"
