"""A tiny training whose processes die on request: FAULT=PLACE:CALL:SIGNAL:WHOM kills at a call of a function.

WHOM is the process that trains (``child``) or its supervisor (``parent``).
"""

import os
import signal

import jax
import jax.numpy as jnp

from cnnjax import create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Train
from cnnjax.parallel import current_placement

experiment = Experiment(
    model=create("lenet", activation="relu", pooling="max", input_size=12),
    data=Data(source="mnist", dir=os.environ["DIGITS"], validation=0.2),
    augmentation=Augmentation(pad_crop=1),
    optimizer=Optimizer(name="momentum", lr=0.02),
    train=Train(epochs=3, batch_size=40, ema_decay=0.99, keep=3),
    early_stopping=EarlyStopping(patience=None),
)


def after_epoch(state, row):
    """Compute with the train state, which only one process does."""
    assert current_placement().count == 1
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def die_at(place: str, call: int, number: int, whom: str) -> None:
    """Send a signal at a call of the function that a step, a save or an evaluation makes."""
    from cnnjax.checkpoint import arrays
    from cnnjax.parallel import processes
    from cnnjax.training import loop

    owner, name = {
        "step": (processes.StopTogether, "__call__"), "save": (arrays, "write"), "evaluation": (loop, "evaluate"),
    }[place]  # fmt: skip
    original, calls = getattr(owner, name), []

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getppid() if whom == "parent" else os.getpid(), number)
        return original(*arguments, **options)

    setattr(owner, name, counted)


if "FAULT" in os.environ and "CNNJAX_SUPERVISOR" in os.environ:
    place, call, number, whom = os.environ["FAULT"].split(":")
    die_at(place, int(call), signal.Signals[number], whom)
