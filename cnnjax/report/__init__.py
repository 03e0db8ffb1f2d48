"""The pictures of a run and the page that shows them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.config import Experiment
from cnnjax.data import Dataset, Split, epoch_order, normalize
from cnnjax.functional import Variables, features
from cnnjax.report import figures, page
from cnnjax.training.classification import softmax
from cnnjax.training.evaluation import predict_logits
from cnnjax.training.state import step_key
from cnnjax.training.step import augmented

EXAMPLES = 32


def write(
    name: str,
    experiment: Experiment,
    dataset: Dataset,
    variables: Variables,
    folder: Path,
    results: dict[str, Any],
    rows: list[dict[str, Any]],
) -> None:
    """Draw curves, confusion, mistakes, filters and examples as PNG, and write report.html, which holds them all."""
    arch, preprocessing, test = experiment.model, dataset.preprocessing, dataset.test
    logits = predict_logits(arch, preprocessing, variables, test, experiment.train.eval_batch_size)
    classes = tuple(name.replace("$", r"\$") for name in dataset.classes)  # a formula lies between two of them
    first_batch = _first_batch(experiment, dataset)
    image = test.read(np.arange(1))
    maps = features(arch, variables, normalize(preprocessing, image, arch.dtype))
    drawings = {
        "curves": figures.curves(
            rows, results["best_epoch"], experiment.early_stopping.metric, experiment.train.label_smoothing
        ),
        "confusion": figures.confusion(logits, test.labels, classes),
        "mistakes": figures.mistakes(softmax(logits), test, classes),
        "filters": figures.filters(variables.params, arch.image_shape, image[0], *_first(maps)),
        "examples": figures.examples(
            np.asarray(normalize(preprocessing, first_batch.images)),
            first_batch.labels,
            classes,
            experiment.train.batch_size,
        ),
    }
    for stem, figure in drawings.items():
        figures.save(figure, folder / f"{stem}.png")
    page.write(folder, name, experiment, results, rows, [f"{stem}.png" for stem in drawings])


def _first_batch(experiment: Experiment, dataset: Dataset) -> Split:
    """Return the images of the first training step, augmented, or as many of them as a picture holds."""
    order = epoch_order(experiment.seed, 0, len(dataset.train.labels))
    picked = order[: experiment.train.batch_size]
    images, labels = dataset.train.read(picked), dataset.train.labels[picked]
    key = jax.random.fold_in(step_key(experiment.seed), 0)
    seen, _ = augmented(experiment.augmentation, jnp.asarray(images), key)
    return Split(np.asarray(seen)[:EXAMPLES], labels[:EXAMPLES])


def _first(maps: dict[str, jax.Array]) -> tuple[str, np.ndarray]:
    """Return the first stage's name and its activation [H, W, C] for the first image."""
    stage, activation = next(iter(maps.items()))
    return stage, np.asarray(activation[0], np.float32)
