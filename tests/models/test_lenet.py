import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow

import cnnjax
from cnnjax import create, features, init
from cnnjax.complexity import complexity
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables
from cnnjax.models.layers import Pool

KEY = jax.random.key(0)

apply = jax.jit(cnnjax.apply, static_argnames=("arch", "train"))


def logits_shape(arch, size):
    images = jax.ShapeDtypeStruct((2, size, size, arch.channels), jnp.float32)
    return jax.eval_shape(lambda v, x: apply(arch, v, x), abstract_variables(arch), images)[0].logits.shape


@pytest.mark.parametrize("size", [28, 29, 30, 31])
def test_sizes_that_flatten_to_400_are_accepted(size):
    assert logits_shape(create("lenet"), size) == (2, 10)


@pytest.mark.parametrize(("size", "side", "length"), [(32, 6, 576), (27, 4, 256), (20, 3, 144), (4, 0, 0), (1, 0, 0)])
def test_other_sizes_are_refused_with_both_lengths_and_the_sizes_that_fit(size, side, length):
    with pytest.raises(UserError) as error:
        logits_shape(create("lenet"), size)
    assert str(error.value) == (
        "the dense layer takes a flattened length of 5x5x16 = 400, not "
        f"{side}x{side}x16 = {length}; input sizes that fit: 28 to 31"
    )


def test_an_empty_batch_gives_no_logits():
    arch = create("lenet")
    assert apply(arch, init(arch, KEY), jnp.zeros((0, 28, 28, 1)))[0].logits.shape == (0, 10)


@pytest.mark.parametrize(("built_for", "fits"), [(32, range(32, 36)), (12, range(12, 16)), (64, range(64, 68))])
def test_the_sizes_that_fit_depend_on_input_size(built_for, fits):
    arch = create("lenet", input_size=built_for)
    for size in fits:
        assert logits_shape(arch, size) == (2, 10)
    for size in (fits.start - 1, fits.stop):
        with pytest.raises(UserError, match=f"input sizes that fit: {fits.start} to {fits.stop - 1}"):
            logits_shape(arch, size)


def test_features_accept_any_size():
    arch = create("lenet")
    stages = jax.jit(features, static_argnums=0)(arch, init(arch, KEY), jnp.zeros((1, 50, 33, 1)))
    assert {name: stage.shape for name, stage in stages.items()} == {"stage1": (1, 25, 16, 6), "stage2": (1, 10, 6, 16)}


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_forward_pass_equals_float64_numpy(pooling):
    arch = create("lenet", activation="tanh", pooling=pooling, input_size=13, num_classes=4, channels=2)
    params, _ = variables = init(arch, KEY)
    images = np.asarray(jax.random.normal(jax.random.key(2), (2, 13, 13, 2)))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def conv(x, layer, pad):
        x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        rows, columns = x.shape[1] - 4, x.shape[2] - 4
        out = np.zeros((len(x), rows, columns, layer["kernel"].shape[3]))
        for i in range(rows):
            for j in range(columns):
                out[:, i, j] = np.tensordot(x[:, i : i + 5, j : j + 5], layer["kernel"], axes=3)
        return out + layer["bias"]

    def pool(x):
        x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        blocks = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1)
        return blocks.mean((2, 4)) if pooling == "avg" else blocks.max((2, 4))

    x = pool(np.tanh(conv(images, p["conv1"], 2)))
    x = pool(np.tanh(conv(x, p["conv2"], 0))).reshape(2, -1)
    x = np.tanh(x @ p["dense1"]["kernel"] + p["dense1"]["bias"])
    x = np.tanh(x @ p["dense2"]["kernel"] + p["dense2"]["bias"])
    expected = x @ p["head"]["kernel"] + p["head"]["bias"]
    np.testing.assert_allclose(apply(arch, variables, images)[0].logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_pooling_by_slices_equals_reduce_window(kind):
    x = jax.random.normal(KEY, (2, 7, 9, 3))
    if kind == "max":
        expected = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    else:
        expected = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4.0
    np.testing.assert_allclose(Pool(kind)(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("head", "parameters"), [("dense", 61_706), ("conv", 61_706), ("gap", 15_626)])
def test_parameters_of_each_head(head, parameters):
    assert complexity(create("lenet", head=head)).parameters == parameters


@pytest.mark.parametrize("head", ["conv", "gap"])
@pytest.mark.parametrize("side", mostly_slow([32, 28, 45], 1))
def test_convolutional_and_pooled_heads_accept_larger_images_with_the_same_parameters(head, side):
    arch = create("lenet", head=head)
    outputs, _ = apply(arch, init(arch, jax.random.key(0)), jnp.ones((2, side, side, 1)))
    assert outputs.logits.shape == (2, 10)


def test_the_dense_head_names_the_sizes_that_fit():
    arch = create("lenet")
    with pytest.raises(UserError, match="input sizes that fit: 28 to 31"):
        apply(arch, init(arch, jax.random.key(0)), jnp.ones((2, 32, 32, 1)))


def test_the_convolutional_head_equals_the_dense_head_at_28():
    dense, conv = create("lenet"), create("lenet", head="conv")
    variables = init(dense, jax.random.key(0))
    shapes = init(conv, jax.random.key(1)).params
    params = jax.tree.map(lambda leaf, like: leaf.reshape(like.shape), variables.params, shapes)
    images = jax.random.normal(jax.random.key(2), (3, 28, 28, 1))
    ours, theirs = (apply(arch, variables._replace(params=p), images)[0].logits for arch, p in
                    ((conv, params), (dense, variables.params)))  # fmt: skip
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
