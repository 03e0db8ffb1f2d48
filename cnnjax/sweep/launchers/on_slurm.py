"""`--launcher slurm`: an array job with one task for each group of members, written and submitted by submitit.

The scripts, logs and results of the tasks lie in the folder of the sweep, in `slurm/`. A task that reaches its time
limit or is preempted is queued again by submitit, and its members resume from their checkpoints.
"""

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import submitit
from submitit.helpers import Checkpointable

from cnnjax.errors import Interrupted, UserError
from cnnjax.sweep.launchers.jobs import Job, Result, Start, launcher, train
from cnnjax.sweep.options import Slurm
from cnnjax.sweep.running import Launcher, SweepLaunch
from cnnjax.system import signals
from cnnjax.system.files import make_folder

POLL_SECONDS = {True: 0.2, False: 5.0}
"""Seconds between two looks at the tasks, by whether they run on this machine."""


class Task(Checkpointable):
    """Trains a group; `Checkpointable` makes submitit queue it again with the same job."""

    def __call__(self, job: Job) -> list[Result]:
        return train(job)


def slurm_launcher(options: Slurm, launch: SweepLaunch, start: Start) -> Launcher:
    """Return the launcher for the Slurm cluster of this machine.

    Raises:
        UserError: this machine has no Slurm.
    """
    if not options.local and submitit.SlurmExecutor.affinity() < 0:
        raise UserError("--launcher slurm is given and this machine has no sbatch; run it on a login node of the "
                        "cluster, or add --slurm.local")  # fmt: skip
    return launcher(start, functools.partial(_execute, options, launch))


def _execute(
    options: Slurm, launch: SweepLaunch, jobs: Sequence[Job]
) -> Iterator[tuple[Job, list[Result] | Exception]]:  # fmt: skip
    submitted = executor(options, launch.folder / "slurm", launch.short_name).map_array(Task(), list(jobs))
    waiting = list(zip(submitted, jobs, strict=True))
    try:
        while waiting:
            signals.poll()
            ended = [pair for pair in waiting if pair[0].done()]
            waiting = [pair for pair in waiting if pair not in ended]
            for task, job in ended:
                yield job, _outcome(task)
            time.sleep(POLL_SECONDS[options.local])
    except Interrupted:
        for task, _ in waiting:
            task.cancel(check=False)
        raise


def executor(options: Slurm, folder: Path, name: str) -> submitit.AutoExecutor:
    """Return submitit's executor for the options."""
    make_folder(folder)
    made = submitit.AutoExecutor(folder, cluster="local" if options.local else "slurm")
    chosen = {"partition": options.partition, "account": options.account}
    made.update_parameters(
        name=name, timeout_min=options.minutes, cpus_per_task=options.cpus, gpus_per_node=options.gpus,
        mem_gb=options.memory, slurm_array_parallelism=options.tasks,
        **{f"slurm_{key}": value for key, value in chosen.items() if value is not None},
    )  # fmt: skip
    return made


def _outcome(task: "submitit.Job[list[Result]]") -> list[Result] | Exception:
    try:
        return task.result()
    except submitit.core.utils.FailedJobError as error:
        return RuntimeError(str(error).strip().rpartition("\n")[2])  # the last line of the traceback
    except submitit.core.utils.UncompletedJobError as error:
        return RuntimeError(f"its task was lost: {str(error).strip().partition(chr(10))[0]}")
