"""Options of `scripts/sweep.py` for other launchers and for the search; each of them needs an extra package."""

import importlib.util
from typing import Annotated, Literal

from pydantic import Field

from cnnjax.errors import UserError
from cnnjax.schema import Number, Schema

LauncherName = Literal["local", "ray", "slurm"]
PACKAGES = {"ray": "ray", "slurm": "submitit", "optuna": "optuna"}
"""The package that each launcher or search needs; the extra has the name of the launcher or search."""


class Ray(Schema, at="ray."):
    """--launcher ray: the cluster, and what each group of members takes of it."""

    address: str | None = None
    """Address of a cluster, such as head:6379; None uses $RAY_ADDRESS, a cluster that runs on this machine, or starts
    one."""
    cpus: Annotated[Number, Field(ge=0)] = 1
    """CPUs that a group takes."""
    gpus: Annotated[Number, Field(ge=0)] = 0
    """GPUs that a group takes; a fraction such as 0.25 lets four groups share one, each with that share of its
    memory."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often a group is started again, if its worker is lost; its members resume from their checkpoints."""


class Slurm(Schema, at="slurm."):
    """--launcher slurm: the array job, with one task for each group of members."""

    partition: str | None = None
    """Partition to submit to; None is the default of the cluster."""
    account: str | None = None
    """Account to charge; None is the default of the cluster."""
    minutes: Annotated[int, Field(ge=1)] = 240
    """Time limit of a task. A task that reaches it is queued again and resumes, up to three times."""
    cpus: Annotated[int, Field(ge=1)] = 2
    """CPUs of a task."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of a task."""
    memory: Annotated[Number, Field(gt=0)] = 8
    """Memory of a task in GB."""
    tasks: Annotated[int, Field(ge=1)] = 32
    """Maximum tasks that run at a time."""
    local: bool = False
    """Run the tasks as processes of this machine instead, all at once, to try the sweep before it is submitted."""


class Optuna(Schema, at="optuna."):
    """--search optuna: how members are chosen, and how many."""

    method: Literal["tpe", "halving"] = "tpe"
    """tpe: a tree-structured Parzen estimator proposes members, and each is trained to its end; halving: random
    members, of which only the best continue after each rung of epochs (asynchronous successive halving)."""
    trials: Annotated[int, Field(ge=1)] = 20
    """Members to try, those of earlier starts included."""
    first_rung: Annotated[int, Field(ge=1)] = 1
    """halving: epochs after which members are compared for the first time."""
    factor: Annotated[int, Field(ge=2)] = 3
    """halving: each rung has this many times the epochs of the one before, and about one member in this many continues
    beyond it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the search; the same seed proposes the same members."""


def require_package(option: str, name: str) -> None:
    """Raise UserError if the package of a launcher or search is not installed."""
    if importlib.util.find_spec(PACKAGES[name]) is None:
        raise UserError(
            f"{option} {name} needs {PACKAGES[name]}; install it with pip install -e .[{name}], or leave it out"
        )
