"""Figures of transfer learning: embeddings before and after, and where the network looks."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.config import Experiment
from cnnjax.data import Dataset, Source, normalize
from cnnjax.functional import Variables, abstract_variables, features, leaves_by_path
from cnnjax.gradcam import heat_maps
from cnnjax.models.heads import without_head
from cnnjax.partition import select
from cnnjax.report import figures
from cnnjax.report.heat_map import draw
from cnnjax.training.classification import softmax
from cnnjax.training.evaluation import predict_logits

SAMPLED = 300
"""Number of test images whose embeddings are drawn, and among which those with heat maps are chosen."""
EXPLAINED = 4
"""Number of right answers, and of wrong ones, whose heat maps are drawn."""


def write(experiment: Experiment, dataset: Dataset, start: Variables, trained: Variables, folder: Path) -> None:
    """Save projection.png and, unless the last stage has a single position, gradcam.png.

    Args:
        experiment: the experiment with phases.
        dataset: its data; some test images are drawn.
        start: the variables before the first phase.
        trained: the variables of the run.
        folder: the run folder.
    """
    test = dataset.test
    sample = test.take(np.unique(np.linspace(0, len(test.labels) - 1, SAMPLED).round().astype(np.int64)))
    classes = tuple(map(figures.label, dataset.classes))
    figures.save(
        figures.projection(_embeddings(experiment, dataset, start, trained, sample), sample.labels, classes),
        folder / "projection.png",
    )
    logits = predict_logits(experiment.model, dataset.preprocessing, trained, sample, experiment.train.eval_batch_size)
    chosen = most_confident(softmax(logits), sample.labels)
    images, predicted = sample.read(chosen), logits[chosen].argmax(axis=1).astype(np.int32)
    pixels = normalize(dataset.preprocessing, images, experiment.model.dtype)
    heat = _heat(experiment, trained, pixels, predicted)
    if heat is not None:
        pictures = [np.asarray(draw(image, map_)) for image, map_ in zip(images, heat, strict=True)]
        named = [(classes[guess], classes[sample.labels[i]]) for guess, i in zip(predicted, chosen, strict=True)]
        figures.save(figures.explained(pictures, named), folder / "gradcam.png")


def most_confident(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the indices of the most confident right answers, then those of the most confident wrong ones."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    right = probabilities.argmax(axis=1)[order] == labels[order]
    return np.concatenate([order[right][:EXPLAINED], order[~right][:EXPLAINED]])


def _embeddings(
    experiment: Experiment, dataset: Dataset, start: Variables, trained: Variables, sample: Source
) -> dict[str, np.ndarray]:
    """Return the embeddings [N, D] of the sample before and after the training, or once if they are equal."""
    body = without_head(experiment.model)
    like, embeddings = abstract_variables(body), {}
    for title, whole in (("before training", start), ("after training", trained)):
        variables = Variables(*(select(tree, leaves_by_path(part)) for tree, part in zip(whole, like, strict=True)))
        embeddings[title] = predict_logits(
            body, dataset.preprocessing, variables, sample, experiment.train.eval_batch_size
        )
    if np.array_equal(embeddings["before training"], embeddings["after training"]):
        return {"the backbone was frozen": embeddings["after training"]}
    return embeddings


def _heat(experiment: Experiment, variables: Variables, pixels: jax.Array, classes: np.ndarray) -> np.ndarray | None:
    """Return the heat maps [N, h, w] of the classes, or None if the last stage has a single position."""
    arch = experiment.model
    shapes = jax.eval_shape(functools.partial(features, arch), variables, pixels)
    if next(reversed(shapes.values())).shape[1:3] == (1, 1):
        return None
    compute = jax.jit(heat_maps, static_argnums=0)
    return np.asarray(compute(arch, variables, pixels, jnp.asarray(classes)), np.float32)
