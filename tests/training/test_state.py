"""The shapes of a train state, without its values."""

import jax
import pytest

from cnnjax.optim import make_hyperparameters
from cnnjax.training.state import abstract_state, init_state


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_abstract_state_has_the_shapes_of_the_first_state(experiment, ema_decay):
    experiment = experiment.replace(train=experiment.train.replace(ema_decay=ema_decay))
    hyperparameters = make_hyperparameters(experiment, 10)
    abstract, concrete = abstract_state(experiment, hyperparameters), init_state(experiment, hyperparameters)
    assert jax.tree.structure(abstract) == jax.tree.structure(concrete)
    for one, other in zip(jax.tree.leaves(abstract), jax.tree.leaves(concrete), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


def test_the_shapes_of_a_state_are_known_where_the_program_that_draws_it_cannot_be_traced(experiment, monkeypatch):
    monkeypatch.setattr("cnnjax.training.state.drawn_variables", None)
    abstract_state(experiment, make_hyperparameters(experiment, 10))
