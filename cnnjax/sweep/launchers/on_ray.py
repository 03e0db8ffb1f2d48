"""`--launcher ray`: each group of members is a task of a Ray cluster.

Ray starts a task again if its worker or its machine is lost. The task then finds the run folders of its members as the
lost worker left them, and resumes.
"""

import functools
import os
import signal
import threading
from collections.abc import Iterator, Sequence

import ray

from cnnjax.errors import Interrupted, UserError
from cnnjax.sweep.launchers.jobs import Job, Result, Start, launcher, train
from cnnjax.sweep.options import Ray
from cnnjax.sweep.running import Launcher
from cnnjax.system import signals

POLL_SECONDS, SAVE_SECONDS = 1.0, 60.0
"""Seconds between two looks for a signal, and for which interrupted tasks may save their positions."""
GPU_MEMORY = 0.9
"""Share of a GPU's memory that JAX reserves in all the tasks that share it."""


def ray_launcher(options: Ray, start: Start) -> Launcher:
    """Return the launcher for a Ray cluster; without an address or a running cluster, it starts one."""
    return launcher(start, functools.partial(_execute, options))


def _execute(options: Ray, jobs: Sequence[Job]) -> Iterator[tuple[Job, list[Result] | Exception]]:
    ours = not ray.is_initialized()
    if ours:
        _connect(options.address)
    try:
        task = ray.remote(train).options(
            num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.retries, retry_exceptions=[Interrupted],
            runtime_env=_environment(options),
        )  # fmt: skip
        waiting = {task.remote(job): job for job in jobs}
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=POLL_SECONDS)
            for reference in done:
                yield waiting.pop(reference), _outcome(reference)
            _poll(list(waiting))
    finally:
        if ours:
            ray.shutdown()


def _connect(address: str | None) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError) as error:
        reason = str(error).partition("\n")[0][:100]
        raise UserError(f"--ray.address {address} cannot be reached ({reason}); check that the cluster runs") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray replaces it, and SIGTERM would no longer save the members


def _environment(options: Ray) -> dict[str, dict[str, str]]:
    """Return the environment of a task: our own variables, and its share of the memory of a GPU."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("CNNJAX_")}
    if 0 < options.gpus < 1:
        variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{GPU_MEMORY * options.gpus:.3f}"
    return {"env_vars": variables}


def _outcome(reference: "ray.ObjectRef[list[Result]]") -> list[Result] | Exception:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except ray.exceptions.RayError as error:
        return RuntimeError(f"its worker was lost: {str(error).strip().partition(chr(10))[0]}")


def _poll(references: "list[ray.ObjectRef[list[Result]]]") -> None:
    """Raise Interrupted after a signal, when the tasks have saved their positions."""
    try:
        signals.poll()
    except Interrupted:
        for reference in references:
            ray.cancel(reference)  # raises SIGINT in a task that has started, which saves its position
        if references:
            ray.wait(references, num_returns=len(references), timeout=SAVE_SECONDS)
        raise
