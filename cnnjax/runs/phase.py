"""One phase of a run: its experiment, its folder `phases/N-NAME`, and the record that it leaves.

phases/1-head/checkpoints, metrics.jsonl    as in a run; a phase on embeddings stores only the head
phases/1-head/phase.json                    written last: figures, counts, and the proof of what stayed frozen
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from cnnjax import checkpoint
from cnnjax.config import Augmentation, Experiment, Phase
from cnnjax.data import Dataset, make_loader
from cnnjax.data.division import PARTS
from cnnjax.errors import UserError
from cnnjax.functional import HEAD, Variables, abstract_variables, embedding_size, parameter_groups
from cnnjax.models.heads import head_alone, without_head
from cnnjax.models.layers import Arch
from cnnjax.parallel import current_placement
from cnnjax.runs import predictor
from cnnjax.runs.folder import PHASES, RunFolder, is_phase_record, refuse_links
from cnnjax.runs.metrics import saved_rows
from cnnjax.runs.saving import METRICS
from cnnjax.system.files import make_folder, read_json, write_json
from cnnjax.training import out_of_memory
from cnnjax.training.evaluation import evaluate
from cnnjax.training.loop import Outcome
from cnnjax.transfer import embeddings
from cnnjax.transfer.frozen import frozen, moments, require_unchanged
from cnnjax.transfer.phases import label, phase_experiment

RECORD = "phase.json"
Fit = Callable[[Experiment, Dataset, RunFolder, Variables], tuple[Outcome, str | None]]
"""Function that trains an experiment in a folder from the given variables; see `launch.fit_in_folder`."""


class Task(NamedTuple):
    """What all phases of a run have in common."""

    experiment: Experiment
    dataset: Dataset
    folder: RunFolder
    fit: Fit
    notice: Callable[[str], None]


class PhaseRun:
    """A phase of a run."""

    def __init__(self, task: Task, number: int, phase: Phase):
        self.task, self.number, self.phase = task, number, phase
        self.experiment = phase_experiment(task.experiment, phase)
        self.on_embeddings = uses_embeddings(self.experiment, task.dataset, phase)
        self.folder = RunFolder(task.folder.path / PHASES / f"{number}-{label(phase)}", task.folder.definitions)
        refuse_links(self.folder.path, self.folder.checkpoints)
        self.folder.require_lock = task.folder.require_lock
        self.title = f"phase {number} of {len(task.experiment.phases)}, {phase.train}"

    @property
    def finished(self) -> bool:
        return (self.folder.path / RECORD).exists()

    def train(self, start: Variables) -> str | None:
        """Train from ``start`` and write the record; return any problem with metrics.jsonl."""
        patterns = self.experiment.train.freeze
        before, total = frozen(start, patterns), sum(leaf.size for leaf in jax.tree.leaves(start.params))
        trained = total - before.parameters
        self.task.notice(f"{self.title}: {trained:,} parameters are trained, {before.parameters:,} frozen")
        make_folder(self.folder.checkpoints)
        experiment, dataset, variables = self._job(start)
        outcome, problem = self.task.fit(experiment, dataset, self.folder, variables)
        state, best = outcome.snapshot.state, self._best(experiment)
        of_frozen = moments(state.opt_state, experiment.train.freeze)
        for variables in (best, state.variables):
            after = frozen(self._whole(start, variables), patterns)
            require_unchanged(before, after, of_frozen, self.title)
        record = {
            "phase": self.number,
            "trains": self.phase.train,
            "on_embeddings": self.on_embeddings,
            "epochs": outcome.epochs,
            "best_epoch": outcome.best_epoch,
            "best_step": outcome.snapshot.early_stopping.best_step,
            "stopped_early": outcome.stopped_early,
            "trained_parameters": trained,
            "frozen": {
                "patterns": list(patterns),
                "parameters": before.parameters,
                "statistics": before.statistics,
                "moments": of_frozen,
                "sha256_before": before.sha256,
                "sha256_after": after.sha256,
            },
            **{part: _figures(experiment, dataset, best, part) for part in PARTS},
        }
        self.folder.require_lock()
        write_json(self.folder.path / RECORD, record)
        return problem

    def record(self) -> dict[str, Any]:
        """Return the record of the finished phase.

        Raises:
            UserError: it is damaged.
        """
        path = self.folder.path / RECORD
        record = read_json(path)
        if not is_phase_record(record):
            raise UserError(f"{path} is damaged; delete it, then run the same command to write it again")
        return record

    def rows(self) -> list[dict[str, Any]]:
        """Return the metrics of each epoch of the finished phase."""
        newest, _ = checkpoint.newest_good(self.folder.checkpoints)
        assert newest is not None
        return saved_rows(newest.path / METRICS, newest.info["epoch"])

    def variables(self, start: Variables) -> Variables:
        """Return the best variables of the finished phase, which started from ``start``, for the whole network."""
        experiment = self.experiment.replace(model=self._network())
        return self._whole(start, self._best(experiment))

    def _network(self) -> Arch:
        """Return the network that this phase trains: the whole one, or its head."""
        model = self.experiment.model
        return head_alone(model, embedding_size(model)) if self.on_embeddings else model

    def _job(self, start: Variables) -> tuple[Experiment, Dataset, Variables]:
        """Return what `Fit` trains: the whole network on images, or its head on embeddings."""
        if not self.on_embeddings:
            return self.experiment, self.task.dataset, start
        body = Variables({name: tree for name, tree in start.params.items() if name != HEAD}, start.batch_stats)
        dataset = embeddings.embed(self.task.dataset, without_head(self.experiment.model), body, self.task.notice)
        train = self.experiment.train.replace(freeze=(), remat=())
        head = Variables({HEAD: start.params[HEAD]}, {})
        return self.experiment.replace(model=self._network(), train=train), dataset, head

    def _best(self, experiment: Experiment) -> Variables:
        return predictor.restored(checkpoint.best(self.folder.checkpoints), experiment.model)

    def _whole(self, start: Variables, trained: Variables) -> Variables:
        if not self.on_embeddings:
            return trained
        return Variables({**start.params, **trained.params}, start.batch_stats)


def uses_embeddings(experiment: Experiment, dataset: Dataset, phase: Phase) -> bool:
    """Return whether a phase trains the head on embeddings: nothing is augmented, and they fit into memory."""
    if phase.train != HEAD or not phase.embeddings or experiment.augmentation != Augmentation():
        return False
    size = embedding_size(experiment.model)
    wanted, head = (abstract_variables(arch).params for arch in (experiment.model, head_alone(experiment.model, size)))
    groups = parameter_groups(experiment.model)
    is_alone = all(path.startswith(f"{HEAD}/") for path in groups[HEAD]) and wanted[HEAD] == head[HEAD]
    return is_alone and embeddings.fit_in_memory(dataset, size)


def _figures(experiment: Experiment, dataset: Dataset, variables: Variables, part: str) -> dict[str, Any]:
    split, batch_size = dataset.part(part), experiment.train.eval_batch_size
    with out_of_memory.in_evaluation(batch_size):
        loader = make_loader(split, batch_size, 1, current_placement())
        figures = evaluate(experiment.model, dataset.preprocessing, variables, loader, batch_size)
    return {**figures, "images": len(split.labels)}
