"""Probes of a trained network on a data set, with the table of ``scripts/probe.py``."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnnjax import data
from cnnjax.config import Data
from cnnjax.errors import UserError, listed
from cnnjax.models.heads import without_head
from cnnjax.models.layers import Arch
from cnnjax.runs.origin import read_origin
from cnnjax.runs.predictor import Parameters
from cnnjax.transfer.embeddings import Embedder
from cnnjax.transfer.probes import Embeddings, ProbeResult, probe


class Probed(NamedTuple):
    """Accuracies of the probes of a network on a data set."""

    results: list[ProbeResult]
    dataset: data.Dataset

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the accuracies for each number of images as plain data."""
        for shots, linear, neighbors in self.results:
            yield {"data": self.dataset.name, "per_class": shots, "linear": linear, "neighbors": neighbors}

    def lines(self) -> Iterator[str]:
        """Yield the lines of a table."""
        yield f"{self.dataset.name}: {len(self.dataset.classes)} classes, {len(self.dataset.test.labels):,} test images"
        yield f"{'images per class':>16}  {'linear probe':>18}  {'nearest neighbors':>18}  seeds"
        for shots, linear, neighbors in self.results:
            count = "all" if shots is None else f"{shots:,}"
            yield f"{count:>16}  {_percent(linear):>18}  {_percent(neighbors):>18}  {len(linear)}"


def probe_network(
    text: str, model: Arch, config: Data, *, shots: Sequence[int], seeds: int, neighbors: int,
    notice: Callable[[str], None], parameters: Parameters = "auto",
) -> Probed:  # fmt: skip
    """Embed the training and test images with the network that ``text`` names, and fit both probes.

    Raises:
        UserError: the network or the data cannot be read, the data has one class, or too few images.
    """
    origin = read_origin(text, without_head(model), parameters=parameters)
    body = without_head(origin.arch)
    dataset = data.load(config, like=origin.preprocessing, divide=False)
    if len(dataset.classes) < 2:
        raise UserError(f"{dataset.name} has only the class {listed(dataset.classes)}; a probe needs two or more")
    for message in (*origin.notices, *dataset.notices):
        notice(f"notice: {message}")
    embedder = Embedder(body, origin.variables_of(body, text), origin.preprocessing, notice)
    train, test = (Embeddings(embedder(part), part.labels) for part in (dataset.train, dataset.test))
    notice(embedder.summary())
    return Probed(probe(train, test, len(dataset.classes), shots=shots, seeds=seeds, neighbors=neighbors), dataset)


def _percent(accuracies: Sequence[float]) -> str:
    mean = f"{100 * np.mean(accuracies):.2f}"
    return f"{mean} ± {100 * np.std(accuracies, ddof=1):.2f} %" if len(accuracies) > 1 else f"{mean} %"
