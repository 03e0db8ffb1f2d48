"""The cache of embeddings: what it is keyed by, and damage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import apply
from cnnjax.data import Preprocessing, Split, normalize
from cnnjax.functional import Variables, init
from cnnjax.models import create
from cnnjax.transfer import embeddings
from cnnjax.transfer.embeddings import CHUNK, Embedder

BACKBONE = create("mlp", input_size=12, num_classes=0)
PREPROCESSING = Preprocessing(height=12, width=12, mean=(0.3,), std=(0.2,))
COUNT = 2 * CHUNK + 10


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "embeddings"


@pytest.fixture(scope="module")
def variables():
    return init(BACKBONE, jax.random.key(0))


@pytest.fixture(scope="module")
def source():
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 12, 12, 1), np.uint8)
    return Split(images, np.zeros(COUNT, np.int32))


def make(variables, preprocessing=PREPROCESSING, backbone=BACKBONE):
    return Embedder(backbone, variables, preprocessing)


def test_embeddings_are_those_of_the_backbone_and_are_read_from_the_cache(variables, source, cache):
    first = make(variables)
    computed = first(source)
    assert (first.computed, first.read) == (COUNT, 0)
    outputs, _ = apply(BACKBONE, variables, normalize(PREPROCESSING, source.images))
    np.testing.assert_allclose(computed, outputs.logits, rtol=1e-5, atol=1e-6)
    second = make(variables)
    np.testing.assert_array_equal(second(source), computed)
    assert (second.computed, second.read) == (0, COUNT)
    assert len(list(cache.glob("*.embeddings"))) == 3
    assert second.embedded(source).image_shape == (1, 1, 100)


def test_a_change_of_anything_misses_the_cache(variables, source, monkeypatch):
    make(variables)(source)

    def computed(embedder, source=source):
        embedder(source)
        return embedder.computed

    assert computed(make(variables)) == 0
    changed = jax.tree.map(jnp.copy, variables)
    changed.params["dense1"]["bias"] = changed.params["dense1"]["bias"].at[0].add(1e-3)
    assert computed(make(Variables(*changed))) == COUNT
    assert computed(make(variables, PREPROCESSING.replace(mean=(0.31,)))) == COUNT
    assert computed(make(variables, backbone=BACKBONE.replace(activation="tanh"))) == COUNT
    other = source.images.copy()
    other[0, 0, 0, 0] ^= 1
    assert computed(make(variables), Split(other, source.labels)) == CHUNK  # the chunk of that image
    assert computed(make(variables), source.take(np.arange(COUNT)[::-1])) == COUNT
    monkeypatch.setattr(embeddings, "code_version", lambda: "another")
    assert computed(make(variables)) == COUNT


def test_a_killed_process_loses_one_chunk_and_damage_is_computed_again(variables, source, cache):
    expected = make(variables)(source)
    first, second, _ = sorted(cache.glob("*.embeddings"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"x")
    again = make(variables)
    np.testing.assert_array_equal(again(source), expected)
    assert again.computed + again.read == COUNT
    assert CHUNK + 10 <= again.computed <= 2 * CHUNK
    healed = make(variables)
    healed(source)
    assert healed.computed == 0


def test_embeddings_do_not_need_a_cache(variables, source, monkeypatch, tmp_path):
    expected = make(variables)(source)
    monkeypatch.setenv("CNNJAX_CACHE", "0")
    assert make(variables).folder is None
    np.testing.assert_array_equal(make(variables)(source), expected)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "file"))
    notices = []
    embedder = Embedder(BACKBONE, variables, PREPROCESSING, notices.append)
    np.testing.assert_array_equal(embedder(source), expected)
    assert len(notices) == 1
    assert notices[0].startswith("notice: embeddings are not cached (")
