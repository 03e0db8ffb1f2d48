"""Trainings that are compared between meshes: on synthetic images, for 20 steps."""

import jax
import numpy as np

from cnnjax import create
from cnnjax.config import Augmentation, EarlyStopping, Experiment, Optimizer, Train
from cnnjax.data import Dataset, Preprocessing
from cnnjax.data.dataset import Split, content_hash
from cnnjax.parallel import use_devices
from cnnjax.training.loop import fit

STEPS = 20
AUGMENTED = Augmentation(pad_crop=2, flip=True)
CASES = {
    # A batch of 12 on 8 devices: four of them hold two images each, two of them none. GoogLeNet has dropout.
    "lenet": ({"name": "lenet", "activation": "relu", "pooling": "max"}, 12, AUGMENTED),
    "resnet20": ({"name": "resnet20_cifar"}, 16, AUGMENTED),
    # Four images per device, and a clipped gradient: its norm is about 100, and rounding would double with every step.
    # The activation is smooth, because rounding may decide on which side of 0 an input of ReLU is.
    "googlenet": (
        {
            "name": "googlenet",
            "aux_heads": True,
            "activation": "silu",
            "input_size": 64,
            "width": 16,
            "num_classes": 10,
        },
        32,
        AUGMENTED,
    ),
}

CLIPPED = {"googlenet": 1.0}
"""Largest norm of the gradient."""


def case(name: str, dtype: str = "float32", **train: object) -> tuple[Experiment, Dataset]:
    """Return a training of `STEPS` steps in one epoch, and its data: 19 validation images in batches of 10."""
    options, batch, augmentation = CASES[name]
    model = create(**options, dtype=dtype)
    optimizer = Optimizer(name="momentum", lr=1e-3, clip_norm=CLIPPED.get(name))
    experiment = Experiment(
        model=model, augmentation=augmentation, optimizer=optimizer,
        train=Train(**{"epochs": 1, "batch_size": batch, "eval_batch_size": 10, "ema_decay": 0.9, **train}),
        early_stopping=EarlyStopping(patience=None),
    )  # fmt: skip
    return experiment, synthetic(model.image_shape, experiment.train.batch_size * STEPS)


def synthetic(shape: tuple[int, int, int], count: int) -> Dataset:
    """Return a data set of random images: ``count`` to train on, 19 each for validation and test."""
    rng = np.random.default_rng(0)
    parts = [
        Split(rng.integers(0, 256, (size, *shape), dtype=np.uint8), rng.integers(0, 10, size).astype(np.int32))
        for size in (count, 19, 19)
    ]
    height, width, channels = shape
    preprocessing = Preprocessing(height=height, width=width, mean=(0.5,) * channels, std=(0.25,) * channels)
    classes = tuple(f"class{label}" for label in range(10))
    return Dataset("synthetic", *parts, classes, preprocessing, "0" * 64, content_hash(*parts))


def trained(experiment: Experiment, dataset: Dataset, devices: int | None = None):
    """Return the outcome of a training on the first devices."""
    use_devices(devices)
    try:
        return fit(experiment, dataset)
    finally:
        use_devices(None)


def distance(one, other) -> float:
    """Return the largest absolute difference between the numbers of two trees."""
    first, second = jax.device_get((one, other))
    differences = jax.tree.map(lambda a, b: np.abs(np.asarray(a, float) - np.asarray(b, float)).max(), first, second)
    return float(max(jax.tree.leaves(differences)))
