import numpy as np
import pytest

from cnnjax.data.dataset import epoch_order, indices_hash, stratified_split
from cnnjax.errors import UserError

LABELS = np.repeat(np.arange(4), [100, 50, 10, 7])


def test_the_split_is_stratified():
    train, held_out = stratified_split(LABELS, 0.2, seed=0)
    assert np.bincount(LABELS[held_out]).tolist() == [20, 10, 2, 1]
    assert sorted([*train, *held_out]) == list(range(len(LABELS)))


def test_the_split_is_a_function_of_the_seed():
    first, repeated, other = (indices_hash(stratified_split(LABELS, 0.2, seed)[1]) for seed in (0, 0, 1))
    assert first == repeated != other


def test_the_split_matches_the_recorded_hash():
    _, held_out = stratified_split(LABELS, 0.1, seed=0)
    assert indices_hash(held_out) == "ad6864ce911759a3c9bc8c729c92cdad4f5f6eade7e2ddca7a31a2a043552682"


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_an_empty_part_is_refused(fraction):
    with pytest.raises(UserError, match="change data.validation"):
        stratified_split(np.arange(3), fraction, seed=0)


def test_the_order_of_an_epoch_is_a_function_of_seed_and_epoch():
    orders = {(seed, epoch): epoch_order(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)}
    assert len({tuple(order) for order in orders.values()}) == 4
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert epoch_order(1, 1, 50).tolist() == orders[1, 1]


def test_the_order_of_an_epoch_matches_the_recorded_hash():
    assert epoch_order(3, 2, 8).tolist() == [1, 7, 4, 0, 2, 6, 3, 5]
