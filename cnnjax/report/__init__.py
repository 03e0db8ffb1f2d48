"""The pictures of a run and the page that shows them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.classification import softmax
from cnnjax.config import Experiment
from cnnjax.data import Dataset, Split, epoch_order, normalize
from cnnjax.functional import Variables, features
from cnnjax.report import page, pictures
from cnnjax.run_folder import RunFolder
from cnnjax.train.evaluation import predict_logits
from cnnjax.train.step import augmented, step_key

EXAMPLES = 32


def write(
    name: str,
    experiment: Experiment,
    dataset: Dataset,
    variables: Variables,
    folder: RunFolder,
    results: dict[str, Any],
    rows: list[dict[str, Any]],
) -> None:
    """Draw curves, confusion, mistakes, filters and examples as PNG, and write report.html, which holds them all."""
    arch, preprocessing, test = experiment.model, dataset.preprocessing, dataset.test
    logits = predict_logits(arch, preprocessing, variables, test.images, experiment.train.eval_batch_size)
    classes = tuple(name.replace("$", r"\$") for name in dataset.classes)  # a formula lies between two of them
    first_batch = _first_batch(experiment, dataset)
    image = test.images[:1]
    maps = features(arch, variables, normalize(preprocessing, image))
    drawn = {
        "curves": pictures.curves(
            rows, results["best_epoch"], experiment.early_stopping.metric, experiment.train.label_smoothing
        ),
        "confusion": pictures.confusion(logits, test.labels, classes),
        "mistakes": pictures.mistakes(softmax(logits), test, classes),
        "filters": pictures.filters(variables.params, arch.image_shape, image[0], *_first(maps)),
        "examples": pictures.examples(
            np.asarray(normalize(preprocessing, first_batch.images)),
            first_batch.labels,
            classes,
            experiment.train.batch_size,
        ),
    }
    for stem, figure in drawn.items():
        pictures.save(figure, folder.path / f"{stem}.png")
    page.write(folder.path, name, experiment, results, rows, [f"{stem}.png" for stem in drawn])


def _first_batch(experiment: Experiment, dataset: Dataset) -> Split:
    """Return the images of the first training step, augmented, or as many of them as a picture holds."""
    order = epoch_order(experiment.seed, 0, len(dataset.train.labels))
    images, labels = dataset.train.take(order[: experiment.train.batch_size])
    key = jax.random.fold_in(step_key(experiment.seed), 0)
    seen, _ = augmented(experiment.augmentation, jnp.asarray(images), key)
    return Split(np.asarray(seen)[:EXAMPLES], labels[:EXAMPLES])


def _first(maps: dict[str, jax.Array]) -> tuple[str, np.ndarray]:
    """Return the first stage's name and its activation [H, W, C] for the first image."""
    stage, activation = next(iter(maps.items()))
    return stage, np.asarray(activation[0], np.float32)
