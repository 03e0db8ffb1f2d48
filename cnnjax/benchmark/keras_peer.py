"""The Keras peer, on the JAX backend.

Training uses `fit` on arrays in host memory, as Keras users do: one endless `fit`, which a callback pauses between
laps. Inference uses a jitted `stateless_call` on images on the device, as cnnjax does; `predict` would also copy each
batch. A layer of the network normalizes the uint8 images.
"""

import os
import queue
import threading
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras

from cnnjax import parallel
from cnnjax.benchmark import keras_networks, on_jax
from cnnjax.benchmark.protocol import Prepared, serve, timed
from cnnjax.benchmark.work import LEARNING_RATE, Job

ENDLESS = 10**9


def prepare(job: Job) -> Prepared:
    """Build the network and run the first step."""
    parallel.use_platform(job.platform)
    keras.config.set_image_data_format("channels_last")
    if job.dtype == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras_networks.make(job)
    parameters = sum(variable.value.size for variable in model.trainable_variables)
    how, run = (training if job.task == "train" else inference)(job, model)
    facts = on_jax.facts(
        how=how, packages=("keras", "jax"), parameters=parameters, first_step_seconds=timed(run, 1)
    )  # fmt: skip
    return Prepared(run, facts, on_jax.peak_bytes)


class Gate(keras.callbacks.Callback):
    """Pauses an endless `fit`, which runs in its own thread, and lets it run a given number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.requested: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.left: int | None = None
        """Remaining steps of this lap; None before the first."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if not self.left:
            if self.left is not None:
                self.model.jax_state_sync()
                jax.block_until_ready([variable.value for variable in self.model.variables])
                self.ended.put(None)
            self.left = self.requested.get()
        self.left -= 1

    def fit(self, model: Any, *arguments: Any, **options: Any) -> None:
        """Start `fit`; `run` raises its exceptions."""

        def work() -> None:
            try:
                model.fit(*arguments, **options, epochs=ENDLESS, verbose=0, callbacks=[self])
            except BaseException as error:
                self.ended.put(error)

        threading.Thread(target=work, daemon=True).start()

    def run(self, steps: int) -> None:
        """Run ``steps`` steps of `fit`, and wait for the device."""
        self.requested.put(steps)
        if error := self.ended.get():
            raise error


def training(job: Job, model: Any) -> tuple[str, Any]:
    rule = keras.optimizers.Adam if job.optimizer == "adam" else keras.optimizers.SGD
    momentum = {} if job.optimizer == "adam" else {"momentum": 0.9}
    model.compile(
        optimizer=rule(LEARNING_RATE, **momentum),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    gate = Gate()
    gate.fit(model, *job.made_up(), batch_size=job.batch)
    return "fit over uint8 arrays in the host's memory", gate.run


def inference(job: Job, model: Any) -> tuple[str, Any]:
    images = jax.device_put(job.made_up()[0])
    groups = (model.trainable_variables, model.non_trainable_variables)
    state = [[variable.value for variable in group] for group in groups]
    predict = jax.jit(lambda state, images: model.stateless_call(*state, images, training=False)[0])
    return "jitted stateless_call", lambda steps: on_jax.queued(lambda: predict(state, images), steps)


if __name__ == "__main__":
    serve(prepare)
