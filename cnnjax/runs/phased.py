"""A run with phases: they are trained one after the other, and their results become those of the run.

A phase starts from the best parameters of the one before it. When all are done, the best parameters of all phases, by
the experiment's early-stopping metric, become the run's checkpoint, and the rows of all phases its metrics.jsonl.
"""

import math
from typing import Any, NamedTuple

from cnnjax import checkpoint
from cnnjax.functional import Variables
from cnnjax.runs.metrics import metrics_line
from cnnjax.runs.metrics_log import MetricsLog
from cnnjax.runs.phase import PhaseRun, Task
from cnnjax.runs.saving import METRICS, description
from cnnjax.training.early_stopping import score_of


class PhasedOutcome(NamedTuple):
    """Result of all phases, with the field names of `Outcome`."""

    rows: list[dict[str, Any]]
    """Metrics of each epoch; epochs and steps count through all phases, and ``phase`` counts from 1."""
    epochs: int
    stopped_early: bool
    best_epoch: int
    phases: list[dict[str, Any]]
    """The record of each phase."""
    best_phase: int
    """Index of the phase whose best parameters are those of the run."""


def fit_phases(task: Task, start: Variables) -> tuple[PhasedOutcome, str | None]:
    """Train the phases that are not finished, and publish the best parameters in the run's folder.

    Returns:
        The outcome, and any problem with a metrics.jsonl.
    """
    variables = best = start
    records: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    problems: list[str | None] = []
    best_phase, best_score = 0, math.inf
    for index, phase in enumerate(task.experiment.phases):
        run = PhaseRun(task, index + 1, phase)
        if not run.finished:
            problems.append(run.train(variables))
        records.append(run.record())
        rows += continued(rows, run.rows(), index + 1)
        variables = run.variables(variables)
        checkpoint.prune(run.folder.checkpoints, 1, records[-1]["best_step"])
        score = score_of(task.experiment.early_stopping.metric, records[-1]["validation"], index)
        if index == 0 or score < best_score:
            best, best_phase, best_score = variables, index, score
    outcome = PhasedOutcome(
        rows=rows,
        epochs=len(rows),
        stopped_early=any(record["stopped_early"] for record in records),
        best_epoch=sum(record["epochs"] for record in records[:best_phase]) + records[best_phase]["best_epoch"],
        phases=records,
        best_phase=best_phase,
    )
    problems.append(_publish(task, outcome, best))
    return outcome, next((problem for problem in problems if problem), None)


def continued(before: list[dict[str, Any]], rows: list[dict[str, Any]], phase: int) -> list[dict[str, Any]]:
    """Return the rows of a phase with the epochs and steps counted from the first phase on."""
    epoch, step = (before[-1]["epoch"], before[-1]["step"]) if before else (0, 0)
    return [{**row, "epoch": epoch + row["epoch"], "step": step + row["step"], "phase": phase} for row in rows]


def _publish(task: Task, outcome: PhasedOutcome, best: Variables) -> str | None:
    """Write the checkpoint and the metrics.jsonl of the whole run; return why the latter failed, if it did."""
    info = {"epoch": outcome.epochs, **description(task.experiment, task.dataset)}
    files = {METRICS: b"".join(map(metrics_line, outcome.rows))}
    checkpoint.save(
        task.folder.checkpoints, outcome.rows[-1]["step"], {"variables": best._asdict()}, info, files,
        require_lock=task.folder.require_lock,
    )  # fmt: skip
    return MetricsLog(task.folder, outcome.rows, task.notice).problem
