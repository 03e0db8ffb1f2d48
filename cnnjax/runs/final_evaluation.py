"""The figures of a finished training on all three splits, computed by all processes of the training."""

from typing import Any

from cnnjax.config import Experiment
from cnnjax.data import Dataset, make_loader
from cnnjax.data.division import PARTS
from cnnjax.functional import Variables
from cnnjax.parallel import all_processes, current_placement, processes
from cnnjax.system import signals
from cnnjax.training import out_of_memory
from cnnjax.training.evaluation import evaluate

EVALUATE = "evaluate"
"""What the leader of several processes says before this evaluation."""


def figures_of_splits(experiment: Experiment, dataset: Dataset, variables: Variables) -> dict[str, Any]:
    """Return the metrics of a network on all three splits; other processes than the first receive its variables."""
    batch_size, parts = experiment.train.eval_batch_size, {}
    several = processes.count() > 1
    if several:
        if processes.is_leader():
            processes.exchange({"kind": EVALUATE})
        variables = processes.from_leader(variables)
    with all_processes():
        placement = current_placement()
        poll = processes.StopTogether(placement) if several else signals.poll
        for part in PARTS:
            split = dataset.part(part)
            with out_of_memory.in_evaluation(batch_size):
                loader = make_loader(split, batch_size, 1, placement)
                figures = evaluate(experiment.model, dataset.preprocessing, variables, loader, batch_size, poll)
            parts[part] = {**figures, "images": len(split.labels)}
    return parts
