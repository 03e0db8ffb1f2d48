"""The cnnjax peer: training step and inference, fed as `training.loop` and `training.evaluation` feed them."""

import jax
import jax.numpy as jnp

from cnnjax import parallel
from cnnjax.benchmark import on_jax
from cnnjax.benchmark.blocks import network
from cnnjax.benchmark.protocol import Prepared, serve, timed
from cnnjax.benchmark.work import LEARNING_RATE, Job
from cnnjax.complexity import complexity
from cnnjax.config import Experiment, Optimizer
from cnnjax.data import DeviceSplit, Preprocessing, epoch_order
from cnnjax.functional import abstract_variables, init
from cnnjax.models.layers import Arch
from cnnjax.ops.dispatch import conv_library, steps_per_dispatch
from cnnjax.optim import make_hyperparameters
from cnnjax.training.evaluation import logits_step
from cnnjax.training.state import init_state, step_key
from cnnjax.training.step import make_dispatch, make_train_step

PACKAGES = ("cnnjax", "jax", "jaxlib", "flax", "optax", "numpy")


def prepare(job: Job) -> Prepared:
    """Build the network and run the first step."""
    parallel.use_platform(job.platform)
    parallel.use_devices(job.devices)
    height, width, _ = job.image_shape
    arch = network(job.model, dtype=job.dtype, input_size=height)
    preprocessing = Preprocessing(height=height, width=width, mean=job.mean, std=job.std)
    with parallel.current_placement().active():
        library = conv_library(jnp.dtype(job.dtype))
    prepared = (training if job.task == "train" else inference)(job, arch, preprocessing)
    rate, source = on_jax.peak_rate(job.dtype)
    facts = prepared.facts.replace(
        how=f"{prepared.facts.how}convolution by {library}", native=not library.startswith("xla"),
        multiply_adds=complexity(arch).multiply_adds, peak_rate=rate, peak_source=source,
    )  # fmt: skip
    return prepared._replace(facts=facts)


def training(job: Job, arch: Arch, preprocessing: Preprocessing) -> Prepared:
    """Train on images on the device; a lap is a number of steps of an endless run."""
    experiment = Experiment(model=arch, optimizer=Optimizer(name=job.optimizer, lr=LEARNING_RATE))
    placement = parallel.current_placement()
    hyperparameters = placement.put(make_hyperparameters(experiment, job.batches))
    dispatch = make_dispatch(make_train_step(experiment, preprocessing), job.batch, job.batches)
    data, key = DeviceSplit(*placement.put(job.made_up())), step_key(0)
    order = placement.put(epoch_order(0, 0, len(data.labels)))
    chunk = steps_per_dispatch(jax.default_backend(), job.batches)
    state = placement.spread(init_state(experiment, hyperparameters))

    def step() -> jax.Array:
        nonlocal state
        with placement.active():
            state, metrics = dispatch(state, data, order, key, hyperparameters, steps=chunk)
        return metrics.loss

    def run(steps: int) -> None:
        on_jax.queued(step, steps // chunk)

    facts = on_jax.facts(
        how=f"{chunk} steps per dispatch; " if chunk > 1 else "",
        packages=PACKAGES,
        parameters=parameters(arch),
        first_step_seconds=timed(run, chunk),
    )
    return Prepared(run, facts.replace(granularity=chunk), on_jax.peak_bytes)


def inference(job: Job, arch: Arch, preprocessing: Preprocessing) -> Prepared:
    """Compute the logits of a batch on the device repeatedly."""
    placement = parallel.current_placement()
    variables = placement.spread(init(arch, jax.random.key(0)))
    images = placement.split(job.made_up()[0])

    def run(steps: int) -> None:
        with placement.active():
            on_jax.queued(lambda: logits_step(arch, preprocessing, variables, images), steps)

    facts = on_jax.facts(
        how="", packages=PACKAGES, parameters=parameters(arch), first_step_seconds=timed(run, 1)
    )  # fmt: skip
    return Prepared(run, facts, on_jax.peak_bytes)


def parameters(arch: Arch) -> int:
    """Return the number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_variables(arch).params))


if __name__ == "__main__":
    serve(prepare)
