"""Xception with random weights, compared with Keras and timm."""

import jax
import numpy as np
import pytest
import torch
from peers import KerasPeer, TorchPeer, nchw, random_images, relaxed
from safetensors.numpy import load_file

import cnnjax
from cnnjax.convert import load_weights, save_weights

SIZES = ((80, 97), (75, 75))
apply = jax.jit(cnnjax.apply, static_argnames="arch")


@pytest.mark.parametrize("kind", [".pth", ".safetensors"])
def test_logits_equal_those_of_timm(kind, tmp_path):
    peer, arch = TorchPeer("timm", "legacy_xception"), cnnjax.create("legacy_xception")
    variables = load_weights(arch, "timm", peer.save(tmp_path, kind))
    for size in SIZES:
        images = random_images(*size, seed=0)
        with torch.no_grad():
            expected = peer.net(nchw(images)).numpy()
        assert np.std(expected) > 0.1
        np.testing.assert_allclose(apply(arch, variables, images)[0].logits, expected, atol=1e-4)


@pytest.mark.parametrize("kind", [".h5", ".keras"])
def test_logits_equal_those_of_keras(kind, tmp_path):
    with relaxed():
        KerasPeer("Xception", size=(75, 75))  # so that Keras's counters of unnamed layers do not start at 0
    peer, arch = KerasPeer("Xception", size=SIZES[0]), cnnjax.create("xception")
    variables = load_weights(arch, "keras", peer.save(tmp_path, kind))
    for size in SIZES:
        images = random_images(*size, seed=0)
        with relaxed():
            expected = np.asarray(peer.net(size)(images, training=False))
        assert np.std(expected) > 0.1
        np.testing.assert_allclose(apply(arch, variables, images)[0].logits, expected, atol=1e-4)


def test_a_state_dict_round_trip_is_exact(tmp_path):
    peer, arch = TorchPeer("timm", "legacy_xception"), cnnjax.create("legacy_xception")
    variables = load_weights(arch, "timm", peer.save(tmp_path, ".safetensors"))
    save_weights(arch, variables, "timm", tmp_path / "back.safetensors")
    original = {
        name: value for name, value in load_file(tmp_path / "timm.safetensors").items() if "num_batches" not in name
    }
    written = load_file(tmp_path / "back.safetensors")
    assert written.keys() == original.keys()
    assert all(np.array_equal(written[name], original[name]) for name in written)
