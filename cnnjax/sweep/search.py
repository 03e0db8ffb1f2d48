"""`--search optuna`: train only the members of a sweep that a search proposes, by their validation top-1.

The search keeps no state of its own. Its proposals are a function of its seed and of the earlier results, and the
results are in the run folders of the members; so a search that is started again asks for the same members, reads those
that have been trained, and continues. A member that successive halving stops stays unfinished, with its checkpoints.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from cnnjax import data
from cnnjax.data import Dataset
from cnnjax.errors import Interrupted, counted
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.launch import run_steps
from cnnjax.sweep import store
from cnnjax.sweep.axes import Axis, label
from cnnjax.sweep.members import Member, expand, select
from cnnjax.sweep.options import Optuna
from cnnjax.sweep.progress import QUIET, MemberProgress, SweepProgress
from cnnjax.sweep.running import Ended, Launcher, SweepLaunch, end_member, failure
from cnnjax.sweep.statistics import SEED
from cnnjax.system.console import say
from cnnjax.training.hooks import Plan, Snapshot
from cnnjax.training.turns import finish

METRIC = "validation_top1"
MOST_ASKS = 50
"""Maximum proposals for each trial; a proposal may repeat an earlier member, or be left out by --only."""


class Stopped(Exception):
    """Successive halving stops a member."""


def search_launcher(options: Optuna, only: Sequence[str] = ()) -> Launcher:
    """Return the launcher that trains the members that the search proposes, one after the other."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return functools.partial(_search, options, only)


def make_study(options: Optuna) -> optuna.Study:
    """Return a study in memory with the sampler and the pruner of the method."""
    sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=options.seed)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if options.method == "halving":
        sampler = optuna.samplers.RandomSampler(seed=options.seed)
        pruner = optuna.pruners.SuccessiveHalvingPruner(options.first_rung, options.factor)
    return optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)


def _search(
    options: Optuna, only: Sequence[str], launch: SweepLaunch, groups: Sequence[tuple[Member, ...]],
    progress: SweepProgress,
) -> Iterator[Ended]:  # fmt: skip
    members = _searched(select(expand(launch.base, launch.sweep), only))
    space, study = Space(launch.sweep.axes, members), make_study(options)
    load = functools.lru_cache(maxsize=1)(lambda config: data.load(config, launch.definitions.sources))
    tried: dict[str, FrozenTrial] = {}
    for _ in range(MOST_ASKS * options.trials):
        if len(tried) == min(options.trials, len(members)):
            break
        trial = study.ask()
        member = space.propose(trial)
        if member is None:
            study.tell(trial, state=TrialState.FAIL)
        elif (earlier := tried.get(member.title)) is not None:
            study.tell(trial, earlier.value if earlier.state == TrialState.COMPLETE else None, earlier.state)
        else:
            ended, value, state = _try(launch, member, load(member.experiment.data), trial, progress)
            if ended is not None:
                yield ended
            tried[member.title] = study.tell(trial, value, state)
    say(progress.console, _best(study, space, tried))


def _searched(members: Sequence[Member]) -> tuple[Member, ...]:
    """Return the members with the first seed, since a search over seeds would select by luck."""
    seeds = [member.values[SEED] for member in members if SEED in member.values]
    return tuple(member for member in members if member.values.get(SEED) in (None, *seeds[:1]))


class Space:
    """The parameters of the search: one for each axis, whose values are the numbers of its points."""

    def __init__(self, axes: Sequence[Axis], members: Sequence[Member]):
        self.members = {_key(member.values): member for member in members}
        self.axes = axes
        self.points = [
            sorted(axis.points) if _is_ordered(axis) else list(axis.points)
            for axis in (_restricted(axis, members) for axis in axes)
        ]

    def propose(self, trial: Trial | FrozenTrial) -> Member | None:
        """Return the member that a trial proposes, or None if it is not among the members."""
        values: dict[str, Any] = {}
        for number, (axis, points) in enumerate(zip(self.axes, self.points, strict=True)):
            if not points or not axis.applies(values):
                continue
            name = f"{number}: {axis.name}"
            if _is_ordered(axis):
                index = trial.suggest_int(name, 0, len(points) - 1)
            else:
                index = trial.suggest_categorical(name, tuple(range(len(points))))
            values.update(zip(axis.options, points[index], strict=True))
        return self.members.get(_key(values))


def _key(values: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((option, label(value)) for option, value in values.items())


def _restricted(axis: Axis, members: Sequence[Member]) -> Axis:
    """Return the axis with the points that a member has."""
    used = {tuple(member.values.get(option) for option in axis.options) for member in members}
    return Axis(axis.options, tuple(point for point in axis.points if point in used), axis.when, axis.drawn)


def _is_ordered(axis: Axis) -> bool:
    """Return whether the points are numbers, so that neighbors are similar."""
    values = [value for point in axis.points for value in point]
    return len(axis.options) == 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


class _Reported(MemberProgress):
    """Reports each epoch of a member to its trial, and ends the training when the pruner stops it."""

    def __init__(self, progress: SweepProgress, member: Member, trial: Trial):
        super().__init__(progress, member)
        self.trial, self.epochs = trial, 0

    def start(self, plan: Plan) -> None:
        super().start(plan)
        self.report(plan.rows)

    def epoch(self, snapshot: Snapshot) -> None:
        super().epoch(snapshot)
        self.report(snapshot.rows)

    def report(self, rows: Sequence[dict[str, Any]]) -> None:
        """Report the epochs that are new; raise Stopped at the first one after which the pruner stops the member."""
        for row in rows[self.epochs :]:
            self.epochs += 1
            self.trial.report(row[METRIC], self.epochs)
            if self.trial.should_prune():
                raise Stopped(f"stopped after epoch {self.epochs}: validation top-1 {100 * row[METRIC]:.2f} %")


def _try(
    launch: SweepLaunch, member: Member, dataset: Dataset, trial: Trial, progress: SweepProgress
) -> tuple[Ended | None, float | None, TrialState | None]:  # fmt: skip
    """Train a member unless it has results; return how it ended, its value, and its state if it has no value."""
    folder = launch.member_folder(member)
    hook, state = _Reported(progress, member, trial), store.state(folder)
    ended = None
    try:
        if state.status in ("finished", "unfinished"):
            hook.report(RunFolder(folder).read_metrics())
        if state.status == "diverged":
            return None, None, TrialState.FAIL
        if state.status != "finished":
            ended = end_member(
                launch, member, finish(run_steps(launch.member_launch(member), dataset, QUIET, hook)), hook.left
            )
        if ended is not None and ended.failure:
            return ended, None, TrialState.FAIL
        return ended, RunFolder(folder).read_results()["validation"]["top1"], None
    except Stopped as stop:
        return Ended(member, str(stop), steps=hook.left if hook.total else None), None, TrialState.PRUNED
    except Interrupted:
        raise
    except Exception as error:
        return failure(launch, member, error, hook.left), None, TrialState.FAIL


def _best(study: optuna.Study, space: Space, tried: dict[str, FrozenTrial]) -> str:
    """Return the line about the best member."""
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    stopped = sum(trial.state == TrialState.PRUNED for trial in tried.values())
    counts = f"{counted(len(tried), 'trial')}, {stopped} stopped early"
    if not complete or (best := space.propose(study.best_trial)) is None:
        return f"{counts}; no member has finished"
    options = " ".join(f"{option}={label(value)}" for option, value in best.values.items() if option != SEED)
    return f"{counts}; best validation top-1 {100 * study.best_value:.2f} %; to train all its seeds: --only {options}"
