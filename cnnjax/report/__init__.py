"""Report of a run: the figures, and the page that shows them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.config import Experiment
from cnnjax.data import Dataset, Split, normalize
from cnnjax.functional import Variables, features
from cnnjax.report import figures, page
from cnnjax.training.classification import classification_report, softmax
from cnnjax.training.evaluation import predict_logits
from cnnjax.training.loop import training_order
from cnnjax.training.state import step_key
from cnnjax.training.step import augmented

EXAMPLES = 32
SHOWN = 3
"""Number of test images whose feature maps are drawn."""


def write(
    name: str,
    experiment: Experiment,
    dataset: Dataset,
    variables: Variables,
    folder: Path,
    environment: dict[str, Any],
    results: dict[str, Any],
    rows: list[dict[str, Any]],
) -> None:
    """Save curves, confusion matrix, mistakes, kernels, feature maps and examples as PNG, and write report.html."""
    arch, preprocessing, test = experiment.model, dataset.preprocessing, dataset.test
    logits = predict_logits(arch, preprocessing, variables, test, experiment.train.eval_batch_size)
    classes = tuple(map(figures.label, dataset.classes))
    first_batch = _first_batch(experiment, dataset)
    images = test.read(np.arange(min(SHOWN, len(test.labels))))
    maps = features(arch, variables, normalize(preprocessing, images, arch.dtype))
    drawings = {
        "curves": figures.curves(
            rows, results["best_epoch"], experiment.early_stopping.metric, experiment.train.label_smoothing
        ),
        "confusion": figures.confusion(logits, test.labels, classes),
        "mistakes": figures.mistakes(softmax(logits), test, classes),
        "filters": figures.filters(variables.params, arch.image_shape, images[0], *_first(maps)),
        "examples": figures.examples(
            np.asarray(normalize(preprocessing, first_batch.images)),
            first_batch.labels,
            classes,
            experiment.train.batch_size,
        ),
    }
    if any(x.shape[1] > 1 for x in maps.values()):  # dense stages have no feature maps
        drawings["stages"] = figures.stages(images, {name: np.asarray(x, np.float32) for name, x in maps.items()})
    for stem, figure in drawings.items():
        figures.save(figure, folder / f"{stem}.png")
    report = classification_report(logits, test.labels)
    page.write(folder, name, experiment, environment, results, rows, report, dataset.classes)


def _first_batch(experiment: Experiment, dataset: Dataset) -> Split:
    """Return the augmented images of the first training step, at most ``EXAMPLES`` of them."""
    order = training_order(experiment, dataset.train.labels, 0)
    picked = order[: experiment.train.batch_size]
    images, labels = dataset.train.read(picked), dataset.train.labels[picked]
    key = jax.random.fold_in(step_key(experiment.seed), 0)
    seen, _ = augmented(experiment.augmentation, jnp.asarray(images), key, dataset.preprocessing)
    return Split(np.asarray(seen)[:EXAMPLES], labels[:EXAMPLES])


def _first(maps: dict[str, jax.Array]) -> tuple[str, np.ndarray]:
    """Return the first stage's name and its activation [H, W, C] for the first image."""
    stage, activation = next(iter(maps.items()))
    return stage, np.asarray(activation[0], np.float32)
