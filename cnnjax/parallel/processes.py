"""The processes of one training on several hosts: how they find each other, and what they exchange.

Process 0 leads: it alone writes files and prints. JAX's coordination service, which runs in process 0, passes short
values as JSON; arrays and the request to stop travel over the devices. On one process every function returns at once.
"""

import contextlib
import json
import re
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from cnnjax.errors import CnnjaxError, Diverged, Interrupted, PartlyDone, UserError, cut, quoted, require
from cnnjax.parallel.placement import REPLICATED, Placement
from cnnjax.system import signals, supervisor
from cnnjax.system.private_apis import coordination_client

HEARTBEAT_SECONDS = 30
"""Time without a sign of life after which a process counts as dead and the others end."""
LEAVE_SECONDS = 30
"""Time that a process waits for the others to leave too."""
SLICE_SECONDS = 1
"""Time between looks for a signal or a failure while waiting for another process."""
REPORTED = (UserError, Diverged, Interrupted, PartlyDone)
"""Errors that a process reports to the others; any other error becomes the last one."""
LONGEST_TIMEOUT, MOST_PROCESSES = 24 * 3600, 100_000
LAG = 8
"""Calls of `StopTogether` between a request to stop and its effect, so that the devices are never waited for."""


class Coordinator(NamedTuple):
    """Where the processes meet. With the address ``auto``, JAX finds everything itself: TPU pods, SLURM, Open MPI."""

    address: str
    processes: int | None = None
    process: int | None = None
    timeout: int = 300
    """Seconds after which a process gives up to reach the others."""


def coordinator_of(address: str | None, count: int | None, number: int | None, timeout: int) -> Coordinator | None:
    """Return the coordinator that the options name, or None without ``--coordinator``.

    Raises:
        UserError: an option is missing, or a number is out of range.
    """
    if address is None:
        for option, value in (("--num-processes", count), ("--process-id", number)):
            if value is not None:
                raise UserError(f"{option} is {value} without --coordinator; add --coordinator HOST:PORT of process 0")
        return None
    require(1 <= timeout <= LONGEST_TIMEOUT, "--connect-timeout", timeout, f"1 to {LONGEST_TIMEOUT} seconds")
    if address == "auto":
        if count is not None or number is not None:
            raise UserError("--coordinator is auto, which finds --num-processes and --process-id; leave these out")
        return Coordinator(address, timeout=timeout)
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(
            f"--coordinator is {quoted(address)}; it must be HOST:PORT of process 0, such as node1:1234, or auto"
        )
    if count is None or number is None:
        missing = "--num-processes" if count is None else "--process-id"
        raise UserError(f"--coordinator is given without {missing}; add it")
    require(1 <= count <= MOST_PROCESSES, "--num-processes", count, f"1 to {MOST_PROCESSES}")
    if not 0 <= number < count:
        raise UserError(f"--process-id is {number}; it must be 0 to {count - 1}, because --num-processes is {count}")
    return Coordinator(address, count, number, timeout)


def join(coordinator: Coordinator) -> None:
    """Join the other processes. Call it before the first computation.

    Raises:
        UserError: they were not reached in time, or the coordinator refused this process.
    """
    given: dict[str, Any] = {}
    if coordinator.address != "auto":
        given = {
            "coordinator_address": coordinator.address,
            "num_processes": coordinator.processes,
            "process_id": coordinator.process,
            "cluster_detection_method": "deactivate",
        }
    supervisor.if_killed(_not_met(coordinator))  # in time, JAX may end the process instead of raising an error
    try:
        jax.distributed.initialize(
            **given, initialization_timeout=coordinator.timeout, heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=LEAVE_SECONDS,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise UserError(_why_not_joined(coordinator, str(error))) from error
    supervisor.if_killed("")


def _why_not_joined(coordinator: Coordinator, message: str) -> str:
    reason = message.partition("\n")[0][:120]
    if coordinator.address == "auto" and ("should be defined" in message or "must be defined" in message):
        return (
            "--coordinator is auto, but JAX finds no TPU pod, SLURM or Open MPI job here; give "
            "--coordinator HOST:PORT, --num-processes and --process-id"
        )
    if "DEADLINE_EXCEEDED" in message:
        return _not_met(coordinator)
    return (
        f"--coordinator {coordinator.address} refused this process ({reason}); give each process another --process-id, "
        "from 0 to --num-processes less 1"
    )


def _not_met(coordinator: Coordinator) -> str:
    those = "" if coordinator.processes is None else f"{coordinator.processes} "
    return (
        f"the {those}processes did not meet at --coordinator {coordinator.address} within {coordinator.timeout} "
        "seconds; start all of them with the same --coordinator and --num-processes, check that the host and port of "
        "process 0 can be reached, or raise --connect-timeout"
    )


def leave() -> None:
    """Leave the other processes, once all of them have ended their work. Does nothing on one process."""
    if coordination_client() is not None and not _abandoned:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # this process has reported why it ends
            jax.distributed.shutdown()


def is_leader() -> bool:
    """Return whether this process writes files and prints."""
    return jax.process_index() == 0


def count() -> int:
    """Return the number of processes."""
    return jax.process_count()


def number() -> int:
    """Return the number of this process, counted from 0."""
    return jax.process_index()


class FailedElsewhere(CnnjaxError):
    """Base of an error that another process has reported, so that it is not reported again."""


_exchanges = 0
_abandoned = False
"""Whether another process has ended, so that this one must not wait for it."""


def exchange(value: Any, poll: Callable[[], None] = lambda: None) -> list[Any]:
    """Return the value, which JSON can hold, that each process gives; wait until all have called this function.

    ``poll`` is called about once a second while waiting.

    Raises:
        CnnjaxError: another process has called `fail`; the error has the class and the sentence given there.
    """
    global _exchanges
    client, own, others = coordination_client(), jax.process_index(), range(count())
    if count() == 1:
        return [value]
    _exchanges += 1
    client.key_value_set(_key(_exchanges, own), json.dumps(value))
    values = [json.loads(_wait(client, _key(_exchanges, process), poll)) for process in others]
    if _exchanges > 1:  # the others have read the values of the exchange before, or they would not be here
        client.key_value_delete(_key(_exchanges - 1, own))
    return values


def _key(number: int | str, process: int) -> str:
    return f"cnnjax/{number}/{process}"


def _wait(client: Any, key: str, poll: Callable[[], None]) -> str:
    while True:
        try:
            return client.blocking_key_value_get(key, SLICE_SECONDS * 1000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        for process in range(count()):
            if failure := _failure(client, process):
                raise failure
        poll()


def _failure(client: Any, process: int) -> CnnjaxError | None:
    try:
        failure = json.loads(client.key_value_try_get(_key("failed", process)))
    except jax.errors.JaxRuntimeError:  # it has not failed
        return None
    kind = next(kind for kind in REPORTED if kind.__name__ == failure["kind"])
    return type(kind.__name__, (kind, FailedElsewhere), {})(f"process {process}: {failure['error']}")


def fail(error: Exception) -> None:
    """Report an error of this process to those that wait in `exchange`, unless another one has reported it."""
    if count() == 1 or isinstance(error, FailedElsewhere):
        return
    kind = next(kind.__name__ for kind in REPORTED if isinstance(error, kind) or kind is PartlyDone)
    failure = json.dumps({"kind": kind, "error": str(error)})
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator has ended too
        coordination_client().key_value_set(_key("failed", jax.process_index()), failure)


def is_broken(error: BaseException) -> bool:
    """Return whether an error is one of JAX's runtime; a call to a program may raise it as a ValueError."""
    return isinstance(error, jax.errors.JaxRuntimeError) or (
        isinstance(error, ValueError) and re.match("[A-Z_]+: ", str(error)) is not None
    )


def lost(error: BaseException, resume_command: str) -> PartlyDone:
    """Return the error of a process whose computation failed because another process has ended; do not wait for it."""
    global _abandoned
    _abandoned = True
    reason = cut(" ".join(str(error).split()), 120)
    return PartlyDone(
        f"another process of this training has ended, or cannot be reached ({reason}); to resume, start all processes "
        f"again: {resume_command}"
    )


def from_leader(tree: Any) -> Any:
    """Return the arrays of process 0, bit for bit; the others give arrays of the same shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(leaf) for leaf in leaves]
    flat = np.concatenate([array.reshape(-1).view(np.uint8) for array in arrays])
    received = np.asarray(multihost_utils.broadcast_one_to_all(flat))
    ends = np.cumsum([array.nbytes for array in arrays])[:-1]
    parts = [
        part.view(array.dtype).reshape(array.shape)
        for part, array in zip(np.split(received, ends), arrays, strict=True)
    ]
    return jax.tree.unflatten(structure, jax.tree.map(jax.device_put, parts))


class StopTogether:
    """A ``poll`` for a training on several processes: a signal to one of them interrupts all after the same step.

    Every process makes the same calls between its programs. A call sends on whether a signal has arrived here, and
    looks at what the processes sent `LAG` calls before.
    """

    def __init__(self, placement: Placement):
        self.placement, self.sent = placement, deque[jax.Array]()
        self.any = jax.jit(lambda flags: flags.max(), out_shardings=NamedSharding(placement.mesh, REPLICATED))

    def __call__(self) -> None:
        wanted = False
        try:
            signals.poll()
        except Interrupted:
            wanted = True
        own = self.placement.share(self.placement.count)
        self.sent.append(self.any(self.placement.split(np.full(own.stop - own.start, wanted, np.int32))))
        if len(self.sent) > LAG and int(self.sent.popleft()):
            signals.request()
            signals.poll()
