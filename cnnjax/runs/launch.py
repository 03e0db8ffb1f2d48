"""Turn an experiment into a finished run folder: train, evaluate the best parameters, draw the report."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
from rich.console import Console
from rich.table import Table

from cnnjax import checkpoint, data, report
from cnnjax.config import Experiment
from cnnjax.data import Dataset, make_loader
from cnnjax.data.division import PARTS
from cnnjax.data.loader import loading_plan
from cnnjax.errors import CnnjaxError, PartlyDone, UserError, quoted
from cnnjax.functional import Variables
from cnnjax.ops import dispatch
from cnnjax.ops.dispatch import steps_per_dispatch
from cnnjax.parallel import one_device
from cnnjax.runs import predictor
from cnnjax.runs.definitions import BUILT_IN, COPY, Definitions
from cnnjax.runs.environment import environment
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.metrics_log import MetricsLog
from cnnjax.runs.progress import TerminalProgress
from cnnjax.runs.saving import Saver, tidy
from cnnjax.system import signals
from cnnjax.system.compilation import are_deterministic
from cnnjax.system.console import say
from cnnjax.system.signals import deferred_signals
from cnnjax.training import out_of_memory
from cnnjax.training.evaluation import evaluate
from cnnjax.training.hooks import Hook
from cnnjax.training.loop import Outcome, fit, plan
from cnnjax.training.profiling import Profile, check_steps


@dataclasses.dataclass(frozen=True)
class Launch:
    """An experiment with its name, run folder and definitions."""

    name: str
    experiment: Experiment
    folder: Path
    definitions: Definitions = BUILT_IN


def run(
    launch: Launch, console: Console, resume: Literal["auto", "never"] = "auto", profiled: range | None = None,
    resume_command: str = "repeat the same call",
) -> dict[str, Any]:  # fmt: skip
    """Train, resume, or report that the run is finished; return the results, which are also in results.json.

    The profiler's trace of the steps ``profiled``, counted from when this process starts training, is written to the
    run folder. ``resume_command`` is printed if a signal interrupts the run.

    Raises:
        UserError: the config does not fit the data or the folder, a checkpoint could not be saved, or memory ran out.
        Diverged: a loss was NaN or infinite.
        Interrupted: Ctrl-C, SIGTERM or SIGUSR1; the position is saved.
        PartlyDone: the training finished, but its metrics or report could not be written.
    """
    with deferred_signals(f"interrupted; to resume: {resume_command}"):
        folder = RunFolder(launch.folder, launch.definitions)
        if resume == "never" and (launch.folder / "config.json").exists():
            raise UserError(f"{launch.folder} holds a run, and --resume is never; choose another folder with --out")
        # Validate the input before creating the folder.
        folder.check(launch.experiment)
        dataset = data.load(launch.experiment.data, launch.definitions.sources)
        for notice in dataset.notices:
            say(console, f"notice: {notice}")
        steps_per_epoch, _ = plan(launch.experiment, dataset)
        if profiled is not None:
            done = checkpoint.newest_step(folder.checkpoints)
            check_steps(profiled, 0 if folder.finished else steps_per_epoch * launch.experiment.train.epochs - done)
        with folder.locked():
            results, problems = _run_in(folder, launch, dataset, steps_per_epoch, console, profiled)
    print_results(launch.name, results, console)
    if problems:
        raise PartlyDone(
            f"{launch.folder} has finished training, but {'; and '.join(problems)}; to try again: {resume_command}"
        )
    say(console, f"results: {launch.folder}/   open {launch.folder}/report.html")
    return results


def _run_in(
    folder: RunFolder, launch: Launch, dataset: Dataset, steps_per_epoch: int, console: Console, profiled: range | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the results, and a message for each output that could not be written."""
    folder.start(launch.name, launch.experiment)
    if folder.code_has_changed():
        say(console, f"notice: {folder.path / COPY} differs from the experiment file in use")
    if folder.finished:
        _require_same_data(folder, dataset)
        results = folder.read_results()
        checkpoint.best(folder.checkpoints)
        problem = tidy(folder, launch.experiment.train, results["epochs"], lambda text: say(console, text))
        say(console, f"{launch.folder} is already finished; choose another --seed or --out for a new run")
        return results, [problem] if problem else []
    entry = environment(lowering(launch.experiment, dataset, steps_per_epoch))
    folder.record_files(dataset.names, dataset.left_out)
    changed = folder.record_environment(entry | {"data": dataset.record()})
    if changed and checkpoint.newest_step(folder.checkpoints):
        say(console, _environment_notice(changed))
    return _train(launch, dataset, folder, console, profiled)


def _require_same_data(folder: RunFolder, dataset: Dataset) -> None:
    """Raise UserError if a finished run was trained on other data."""
    if not (folder.path / "environment.json").exists():
        return
    recorded = folder.read_environment().get("data")
    digest = recorded.get("content_hash") if isinstance(recorded, dict) else None
    if isinstance(digest, str) and digest != dataset.content_hash:
        raise UserError(
            f"{folder.path} was trained on other data (sha256 {digest[:12]}, given {dataset.content_hash[:12]}); give "
            "the same files with --data.dir, or choose another --out"
        )


def _train(
    launch: Launch, dataset: Dataset, folder: RunFolder, console: Console, profiled: range | None
) -> tuple[dict[str, Any], list[str]]:
    profile = None if profiled is None else Profile(profiled, launch.folder / "profile")
    outcome, problem = _fit(launch, dataset, folder, console, profile)
    if profile:
        say(console, profile.sentence())
    say(console, "evaluating the best parameters, drawing the report ...")
    variables = predictor.load(launch.folder, launch.definitions).variables
    results = _evaluate_best(launch.experiment, dataset, outcome, variables)
    problems = [problem] if problem else []
    folder.require_lock()
    try:
        environment = folder.read_environment()
        report.write(
            launch.name, launch.experiment, dataset, variables, folder.path, environment, results, outcome.rows
        )
    except CnnjaxError:
        raise
    except Exception as error:  # training is done, whatever the cause
        problems.append(f"its report could not be drawn ({type(error).__name__}: {error})")
    if not problems:
        folder.write_results(results)  # last, because it marks the run as finished
    return results, problems


def lowering(experiment: Experiment, dataset: Dataset, steps_per_epoch: int) -> dict[str, Any]:
    """Return the choices made for this backend, such as the algorithm of each operation."""
    backend = jax.default_backend()
    steps = steps_per_dispatch(backend, steps_per_epoch)
    resident, steps = loading_plan(dataset.train, experiment.train.batch_size, steps)
    chosen = {
        "steps_per_dispatch": steps,
        "images": "resident" if resident else "streamed",
        **dispatch.record(experiment.model.dtype, accumulates=experiment.train.accumulate > 1),
    }
    if backend != "cpu":
        chosen["deterministic"] = are_deterministic()
    return chosen


def _environment_notice(changed: dict[str, tuple[Any, Any]]) -> str:
    now = ", ".join(f"{name} {new}" for name, (_, new) in changed.items())
    before = ", ".join(f"{name} {_shortened(old)}" for name, (old, _) in changed.items())
    return f"notice: resuming with {now} (previously {before}), so the result will not be bit-identical"


def _shortened(value: Any) -> str:
    return value[:200] if isinstance(value, str) else quoted(value)


def print_results(name: str, results: dict[str, Any], console: Console) -> None:
    """Print the results of a finished run."""
    early = ", stopped early" if results["stopped_early"] else ""
    console.print()
    say(console, name)
    say(console, f"best epoch: {results['best_epoch']} of {results['epochs']}{early}")
    table = Table()
    for column in ("", "loss", "top-1", "images"):
        table.add_column(column, justify="right" if column else "left")
    for part in PARTS:
        figures = results[part]
        table.add_row(part, f"{figures['loss']:.4f}", f"{100 * figures['top1']:.2f} %", f"{figures['images']:,}")
    console.print(table)
    say(console, f"{results['seconds']:.1f} s of training, {results['images_per_second']:,.0f} images/s")


def _fit(
    launch: Launch, dataset: Dataset, folder: RunFolder, console: Console, profile: Profile | None
) -> tuple[Outcome, str | None]:
    progress = TerminalProgress(console)
    try:
        return fit_in_folder(launch.experiment, dataset, folder, progress, profile=profile)
    finally:
        progress.close()
        if profile:
            profile.close()


def fit_in_folder(
    experiment: Experiment, dataset: Dataset, folder: RunFolder, progress: Hook,
    poll: Callable[[], None] = signals.poll, profile: Profile | None = None,
) -> tuple[Outcome, str | None]:  # fmt: skip
    """Train from the folder's newest undamaged checkpoint; return the outcome and any problem with metrics.jsonl.

    The order of the hooks is part of the contract: an epoch's line of metrics, its checkpoint, its progress line.
    """
    _, hyperparameters = plan(experiment, dataset)
    saver = Saver(experiment, dataset, folder, progress.notice)
    start = saver.resume(hyperparameters)
    log = MetricsLog(folder, [] if start is None else start.rows, progress.notice)
    outcome = fit(experiment, dataset, start, (log, saver, progress), poll, profile)
    return outcome, log.problem


def _evaluate_best(experiment: Experiment, dataset: Dataset, outcome: Outcome, variables: Variables) -> dict[str, Any]:
    """Return the metrics of the best parameters on all three splits, and the training time over all starts."""
    results: dict[str, Any] = {
        "epochs": outcome.epochs,
        "stopped_early": outcome.stopped_early,
        "best_epoch": outcome.best_epoch,
        **speed(outcome.rows, experiment.train.batch_size),
    }
    batch_size = experiment.train.eval_batch_size
    for part in PARTS:
        split = dataset.part(part)
        with out_of_memory.in_evaluation(batch_size):
            loader = make_loader(split, batch_size, 1, one_device())
            figures = evaluate(experiment.model, dataset.preprocessing, variables, loader, batch_size)
        results[part] = {**figures, "images": len(split.labels)}
    return results


def speed(rows: list[dict[str, Any]], batch_size: int) -> dict[str, float]:
    """Return the training time of all epochs in seconds, and the images per second."""
    seconds = sum(row["seconds"] for row in rows)
    return {
        "seconds": round(seconds, 3),
        "images_per_second": round(rows[-1]["step"] * batch_size / max(seconds, 0.001), 1),
    }
