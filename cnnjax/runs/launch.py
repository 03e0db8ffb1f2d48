"""Turn an experiment into a finished run folder: train, evaluate the best parameters, draw the report."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from rich.console import Console

from cnnjax import checkpoint, data, report
from cnnjax.config import Experiment
from cnnjax.data import Dataset
from cnnjax.data.division import PARTS
from cnnjax.data.loader import loading_plan
from cnnjax.errors import CnnjaxError, PartlyDone, UserError, quoted
from cnnjax.functional import Variables
from cnnjax.ops import dispatch
from cnnjax.ops.dispatch import steps_per_dispatch
from cnnjax.optim import scaled_rate, scaling_sentence
from cnnjax.parallel import all_processes, current_placement, processes
from cnnjax.report import transfer_figures
from cnnjax.runs import continuation, predictor, together
from cnnjax.runs.continuation import Continuation
from cnnjax.runs.definitions import BUILT_IN, COPY, Definitions
from cnnjax.runs.environment import environment
from cnnjax.runs.final_evaluation import figures_of_splits
from cnnjax.runs.folder import RunFolder, decisive_changes
from cnnjax.runs.loggers import require_loggers, with_loggers
from cnnjax.runs.metrics_log import MetricsLog
from cnnjax.runs.origin import FROM_SEED, Start, read_start, start_variables
from cnnjax.runs.phase import Task
from cnnjax.runs.phased import PhasedOutcome, fit_phases
from cnnjax.runs.progress import TerminalProgress
from cnnjax.runs.results_table import print_results
from cnnjax.runs.saving import Saver, tidy
from cnnjax.runs.user_hook import user_hooks
from cnnjax.system import signals
from cnnjax.system.compilation import are_deterministic
from cnnjax.system.console import say
from cnnjax.system.signals import deferred_signals
from cnnjax.training import out_of_memory
from cnnjax.training.classification import classification_report
from cnnjax.training.early_stopping import EarlyStoppingState
from cnnjax.training.evaluation import predict_logits
from cnnjax.training.hooks import Hook, Snapshot
from cnnjax.training.loop import Outcome, plan
from cnnjax.training.profiling import Profile, check_steps
from cnnjax.training.state import state_of
from cnnjax.training.turns import Steps, finish
from cnnjax.transfer.phases import is_open, phase_experiment, resolved


@dataclasses.dataclass(frozen=True)
class Launch:
    """An experiment with its name, run folder and definitions."""

    name: str
    experiment: Experiment
    folder: Path
    definitions: Definitions = BUILT_IN
    loggers: tuple[str, ...] = ()
    """Loggers besides metrics.jsonl: names of `cnnjax.runs.loggers.LOGGERS`."""


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
    require_loggers(launch.loggers)
    interrupted = deferred_signals(f"interrupted; to resume: {resume_command}")
    with interrupted, together.in_company(launch.experiment, resume_command):
        if not processes.is_leader():
            return _followed(launch, console, resume_command)
        folder = RunFolder(launch.folder, launch.definitions)
        if resume == "never" and (launch.folder / "config.json").exists():
            raise UserError(f"{launch.folder} holds a run, and --resume is never; choose another folder with --out")
        # Validate the input before creating the folder.
        if not is_open(launch.experiment):
            folder.check(launch.experiment)
        start = _start(launch.experiment, folder)
        like = together.share_preprocessing(start.preprocessing)
        dataset = data.load(launch.experiment.data, launch.definitions.sources, like=like)
        for notice in (*start.notices, *dataset.notices):
            say(console, f"notice: {notice}")
        experiment = resolved(launch.experiment, dataset, lambda text: say(console, text))
        launch = dataclasses.replace(launch, experiment=experiment)
        together.require_same(experiment, dataset)
        results, problems = finish(run_steps(launch, dataset, console, TerminalProgress(console), profiled, start))
        together.end(results, problems)
    print_results(launch.name, results, console)
    _require_written(launch, problems, resume_command)
    say(console, f"results: {launch.folder}/   open {launch.folder}/report.html")
    return results


def _followed(launch: Launch, console: Console, resume_command: str) -> dict[str, Any]:
    """Take part in the run of process 0; return its results."""
    results, problems = together.follow(launch.experiment, launch.definitions.sources, console)
    _require_written(launch, problems, resume_command)
    return results


def _require_written(launch: Launch, problems: list[str], resume_command: str) -> None:
    if problems:
        raise PartlyDone(
            f"{launch.folder} has finished training, but {'; and '.join(problems)}; to try again: {resume_command}"
        )


def _start(experiment: Experiment, folder: RunFolder) -> Start:
    """Return where a run starts; for one that continues another run, only its preprocessing."""
    if experiment.continue_from is None:
        return read_start(experiment, folder)
    source = continuation.open_source(experiment, folder)
    return Start(preprocessing=continuation.recorded_preprocessing(experiment, folder, source))


def plan_all(experiment: Experiment, dataset: Dataset) -> int:
    """Return the steps per epoch; raise UserError if the config, or that of a phase, does not fit."""
    parts = [phase_experiment(experiment, phase) for phase in experiment.phases] or [experiment]
    return max(plan(part, dataset)[0] for part in parts)  # they all have as many


Finished = tuple[dict[str, Any], list[str]]
"""The results of a run, and a message for each output that could not be written."""


def run_steps(
    launch: Launch, dataset: Dataset, console: Console, progress: Hook, profiled: range | None = None,
    start: Start = FROM_SEED,
) -> Steps[Finished]:  # fmt: skip
    """Train, resume, or report that the run is finished, pausing after each dispatch; the folder stays locked.

    Raises:
        CnnjaxError: as in `run`.
    """
    folder = RunFolder(launch.folder, launch.definitions)
    folder.check(launch.experiment)
    steps_per_epoch = plan_all(launch.experiment, dataset)
    if profiled is not None:
        if launch.experiment.phases:
            raise UserError("--profile is given for an experiment with phases; profile one without phases")
        done = checkpoint.newest_step(folder.checkpoints)
        check_steps(profiled, 0 if folder.finished else steps_per_epoch * launch.experiment.train.epochs - done)
    source = continuation.open_source(launch.experiment, folder)
    earlier = None if source is None else continuation.read_continuation(source, launch.experiment, dataset)
    with folder.locked():
        return (
            yield from _run_in(folder, launch, dataset, start, earlier, steps_per_epoch, console, progress, profiled)
        )


def _run_in(
    folder: RunFolder, launch: Launch, dataset: Dataset, start: Start, earlier: Continuation | None,
    steps_per_epoch: int, console: Console, progress: Hook, profiled: range | None,
) -> Steps[Finished]:  # fmt: skip
    start_run(folder, launch, progress)
    if folder.finished:
        _require_same_data(folder, dataset)
        results = folder.read_results()
        checkpoint.best(folder.checkpoints)
        problem = tidy(folder, launch.experiment.train, results["epochs"], progress.notice)
        say(
            console,
            f"{launch.folder} is already finished; choose another --seed or --out for a new run, or train on with "
            f"--continue-from {launch.folder} and more --train.epochs",
        )
        return results, [problem] if problem else []
    record_start(folder, launch, dataset, steps_per_epoch, progress)
    if earlier is not None:
        continuation.copy_checkpoints(earlier, launch.experiment, dataset, folder, progress.notice)
        before = earlier.source.folder
        if (before.path / "environment.json").exists() and (
            changed := decisive_changes(before.read_environment(), folder.read_environment())
        ):
            progress.notice(_environment_notice(changed))
    variables = start_variables(launch.experiment, dataset, start, folder)
    outcome: Outcome | PhasedOutcome
    if launch.experiment.phases:
        assert variables is not None
        task = Task(launch.experiment, dataset, folder, functools.partial(_fit_phase, console, launch), progress.notice)
        outcome, problem = fit_phases(task, variables)
    else:
        profile = None if profiled is None else Profile(profiled, launch.folder / "profile")
        hooks = with_loggers(progress, launch.loggers, folder.path, launch.name, launch.experiment)
        outcome, problem = yield from _fit(launch.experiment, dataset, folder, hooks, profile, variables)
        if profile:
            say(console, profile.sentence())
    say(console, "evaluating the best parameters, drawing the report ...")
    return finish_run(folder, launch, dataset, outcome, problem, variables)


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


def start_run(folder: RunFolder, launch: Launch, progress: Hook) -> None:
    """Create the folder of a run, or check that it holds the same experiment."""
    folder.start(launch.name, launch.experiment)
    if folder.code_has_changed():
        progress.notice(f"notice: {folder.path / COPY} differs from the experiment file in use")


def record_start(
    folder: RunFolder, launch: Launch, dataset: Dataset, steps_per_epoch: int, progress: Hook, *, stacked: bool = False
) -> None:
    """Record the environment of this start; print a notice if it changes the bits of a run that is resumed."""
    chosen = lowering(launch.experiment, dataset, steps_per_epoch)
    if dispatch.members_are_stacked(jax.default_backend()):
        chosen["stacked"] = "packed" if stacked else False
    entry = environment(chosen)
    parts = [phase_experiment(launch.experiment, phase) for phase in launch.experiment.phases] or [launch.experiment]
    if any(part.optimizer.base_batch is not None for part in parts):
        entry["base_rates"] = [scaled_rate(part) for part in parts]
    folder.record_files(dataset.names, dataset.left_out)
    changed = folder.record_environment(entry | {"data": dataset.record()})
    if changed and checkpoint.newest_step(folder.checkpoints):
        progress.notice(_environment_notice(changed))


def finish_run(
    folder: RunFolder, launch: Launch, dataset: Dataset, outcome: Outcome | PhasedOutcome, problem: str | None,
    start: Variables | None = None,
) -> Finished:  # fmt: skip
    """Evaluate the best parameters of a finished training, draw its report and write its results."""
    variables = predictor.load(launch.folder, launch.definitions).variables
    results = _evaluate_best(launch.experiment, dataset, outcome, variables)
    if isinstance(outcome, Outcome) and outcome.snapshot.state.ema is not None:
        raw = predictor.load(launch.folder, launch.definitions, parameters="raw").variables
        results["raw"] = {"best_epoch": outcome.raw_best_epoch, **figures_of_splits(launch.experiment, dataset, raw)}
    if launch.experiment.train.views > 1:
        results["views"] = _of_views(launch.experiment, dataset, variables)
    problems = [problem] if problem else []
    folder.require_lock()
    try:
        environment = folder.read_environment()
        if launch.experiment.phases and start is not None:
            transfer_figures.write(launch.experiment, dataset, start, variables, launch.folder)
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
    }
    with all_processes(), current_placement().active():
        chosen |= dispatch.record(experiment.model.dtype, accumulates=experiment.train.accumulate > 1)
    if backend != "cpu":
        chosen["deterministic"] = are_deterministic()
    return chosen


def _environment_notice(changed: dict[str, tuple[Any, Any]]) -> str:
    now = ", ".join(f"{name} {new}" for name, (_, new) in changed.items())
    before = ", ".join(f"{name} {_shortened(old)}" for name, (old, _) in changed.items())
    return f"notice: resuming with {now} (previously {before}), so the result will not be bit-identical"


def _shortened(value: Any) -> str:
    return value[:200] if isinstance(value, str) else quoted(value)


def _fit(
    experiment: Experiment, dataset: Dataset, folder: RunFolder, progress: Hook, profile: Profile | None = None,
    initial: Variables | None = None,
) -> Steps[tuple[Outcome, str | None]]:  # fmt: skip
    try:
        return (yield from fit_in_folder(experiment, dataset, folder, progress, profile=profile, initial=initial))
    finally:
        progress.close()
        if profile:
            profile.close()


def _fit_phase(
    console: Console, launch: Launch, experiment: Experiment, dataset: Dataset, folder: RunFolder, start: Variables
) -> tuple[Outcome, str | None]:
    """Train a phase to its end; see `cnnjax.runs.phase.Fit`."""
    name, progress = f"{launch.name}/{folder.path.name}", TerminalProgress(console)
    hooks = with_loggers(progress, launch.loggers, folder.path, name, experiment)
    return finish(_fit(experiment, dataset, folder, hooks, initial=start))


def fit_in_folder(
    experiment: Experiment, dataset: Dataset, folder: RunFolder, progress: Hook,
    poll: Callable[[], None] = signals.poll, profile: Profile | None = None, initial: Variables | None = None,
) -> Steps[tuple[Outcome, str | None]]:  # fmt: skip
    """Train from the folder's newest undamaged checkpoint; return the outcome and any problem with metrics.jsonl.

    Without a checkpoint it starts from the variables ``initial``, or else from the experiment's seed.
    The order of the hooks is part of the contract: an epoch's line of metrics, its checkpoint, its progress line, and
    the function of the experiment file.
    """
    start, log, hooks = resume_in_folder(experiment, dataset, folder, progress, initial)
    outcome = yield from together.train(experiment, dataset, start, hooks, poll, profile)
    return outcome, log.problem


def resume_in_folder(
    experiment: Experiment, dataset: Dataset, folder: RunFolder, progress: Hook, initial: Variables | None = None
) -> tuple[Snapshot | None, MetricsLog, tuple[Hook, ...]]:
    """Return the position in the folder's newest undamaged checkpoint, the log of metrics, and all hooks in order.

    Without a checkpoint, the position is the start from ``initial``, or None if that is None too.
    """
    _, hyperparameters = plan(experiment, dataset)
    saver = Saver(experiment, dataset, folder, progress.notice)
    start = saver.resume(hyperparameters)
    if start is None and initial is not None:
        owned = jax.tree.map(jnp.copy, initial)  # the train step donates the state, and the caller keeps these
        start = Snapshot(state_of(experiment, hyperparameters, owned), EarlyStoppingState(), [], 0.0)
    if text := scaling_sentence(experiment):
        progress.notice(text)
    log = MetricsLog(folder, [] if start is None else start.rows, progress.notice)
    own = user_hooks(folder.definitions.after_epoch)
    return start, log, (log, saver, progress, *own)


def _evaluate_best(
    experiment: Experiment, dataset: Dataset, outcome: Outcome | PhasedOutcome, variables: Variables
) -> dict[str, Any]:
    """Return the metrics of the best parameters on all three splits, and the training time over all starts."""
    results: dict[str, Any] = {
        "epochs": outcome.epochs,
        "stopped_early": outcome.stopped_early,
        "best_epoch": outcome.best_epoch,
        **speed(outcome.rows, experiment.train.batch_size),
    }
    if experiment.optimizer.base_batch is not None and not experiment.phases:
        results["base_rate"] = scaled_rate(experiment)
    if isinstance(outcome, PhasedOutcome):  # each phase has evaluated its best parameters
        best = outcome.phases[outcome.best_phase]
        return {
            **results,
            **{part: best[part] for part in PARTS},
            "best_phase": best["phase"],
            "phases": outcome.phases,
        }
    return {**results, **figures_of_splits(experiment, dataset, variables)}


def _of_views(experiment: Experiment, dataset: Dataset, variables: Variables) -> dict[str, Any]:
    """Return the metrics of the mean logits over several views of each validation and test image."""
    train = experiment.train
    results: dict[str, Any] = {"count": train.views}
    for part in ("validation", "test"):
        split = dataset.part(part)
        with out_of_memory.in_evaluation(train.eval_batch_size):
            logits = predict_logits(
                experiment.model, dataset.preprocessing, variables, split, train.eval_batch_size, train.views
            )
        report = classification_report(logits, split.labels)
        figures = {"loss": report.loss, "top1": report.top1, "top5": report.top5}
        results[part] = {**figures, "images": len(split.labels)}
    return results


def speed(rows: list[dict[str, Any]], batch_size: int) -> dict[str, float]:
    """Return the training time of all epochs in seconds, and the images per second."""
    seconds = sum(row["seconds"] for row in rows)
    return {
        "seconds": round(seconds, 3),
        "images_per_second": round(rows[-1]["step"] * batch_size / max(seconds, 0.001), 1),
    }
