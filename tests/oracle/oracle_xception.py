"""Xception from Keras, whose unnamed layers are numbered in the order of their creation in a process."""

import jax
import numpy as np
import pytest
from cases import XCEPTION_SIZES
from keras_peer import KerasPeer, relaxed
from peers import random_images

import cnnjax
from cnnjax.convert import load_weights


@pytest.mark.parametrize("kind", [".h5", ".keras"])
def test_logits_equal_those_of_a_network_whose_layer_numbers_do_not_start_at_0(kind, tmp_path):
    with relaxed():
        KerasPeer("Xception", size=(75, 75))
    size = XCEPTION_SIZES[0]
    peer, arch = KerasPeer("Xception", size=size), cnnjax.create("xception")
    variables = load_weights(arch, "keras", peer.save(tmp_path, kind))
    images = random_images(*size, seed=0)
    with relaxed():
        expected = np.asarray(peer.net(size)(images, training=False))
    assert np.std(expected) > 0.1
    ours = jax.jit(cnnjax.apply, static_argnums=0)(arch, variables, images)[0].logits
    np.testing.assert_allclose(ours, expected, atol=1e-4)
