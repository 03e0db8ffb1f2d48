"""The peer in Keras on JAX. `python -m cnnjax.benchmark.keras_peer lenet` prints its timing.

It is used as its users do: `fit` over float32 arrays in the host's memory, which are normalised beforehand, so that the
normalisation is not in its time as it is in ours.
"""

import os
import time
from importlib.metadata import version
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from keras import layers

from cnnjax import benchmark, cli
from cnnjax.benchmark import LEARNING_RATE, MEAN, STD, WARM_UP_STEPS, Timing, Work


def lenet() -> Any:
    """Return the network of cnnjax's `models/lenet.py`."""
    return keras.Sequential([
        keras.Input((28, 28, 1)),
        layers.Conv2D(6, 5, padding="same", activation="sigmoid", data_format="channels_last"),
        layers.AveragePooling2D(2, data_format="channels_last"),
        layers.Conv2D(16, 5, activation="sigmoid", data_format="channels_last"),
        layers.AveragePooling2D(2, data_format="channels_last"),
        layers.Flatten(),
        layers.Dense(120, activation="sigmoid"), layers.Dense(84, activation="sigmoid"), layers.Dense(10),
    ])  # fmt: skip


MODELS = {"lenet": lenet}


def train(work: Work) -> Timing:
    """Time `fit`, after one `fit` of a step and one of a few steps."""
    cli.use_platform(work.platform)
    model = MODELS[work.model]()
    parameters = benchmark.check_parameters(work, model.count_params())
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    split = benchmark.made_up(work)
    mean, std = np.asarray(MEAN, np.float32), np.asarray(STD, np.float32)
    images = (split.images.astype(np.float32) / np.float32(255) - mean) / std

    def run(steps: int) -> None:
        count = steps * work.batch  # whole batches alone: a shorter last one would be compiled apart
        model.fit(images[:count], split.labels[:count], batch_size=work.batch, epochs=1, verbose=0)

    started = time.perf_counter()
    run(1)
    first_step_seconds = time.perf_counter() - started
    run(min(WARM_UP_STEPS, work.steps))
    return Timing(
        how="fit over float32 arrays, normalised beforehand",
        packages=(f"keras {version('keras')}", f"jax {version('jax')}"),
        platform=work.platform,
        device=jax.devices()[0].device_kind,
        threads=benchmark.cores(),
        parameters=parameters,
        first_step_seconds=first_step_seconds,
        epoch_seconds=benchmark.time_epochs(work, lambda epoch: run(work.steps)),
    )


if __name__ == "__main__":
    benchmark.serve(train)
