import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import cnnjax
from cnnjax import Variables, create, init
from cnnjax.errors import UserError
from cnnjax.functional import check_variables, layer_calls, leaves_by_path
from cnnjax.models.layers import Arch, Dense, Features, Network, Outputs, Size, as_map

ARCH = create("lenet")
IMAGES = jnp.zeros((1, 28, 28, 1))

apply = jax.jit(cnnjax.apply, static_argnames=("arch", "train"))


@pytest.fixture(scope="module")
def variables():
    return init(ARCH, jax.random.key(0))


def renamed(variables):
    params = dict(variables.params)
    params["convolution1"] = params.pop("conv1")
    return Variables(params, variables.batch_stats)


def reshaped(variables, shape=(400, 121), dtype=jnp.float32):
    dense1 = {**variables.params["dense1"], "kernel": jnp.zeros(shape, dtype)}
    return Variables({**variables.params, "dense1": dense1}, variables.batch_stats)


def test_a_renamed_layer_is_reported_as_missing_and_unknown(variables):
    with pytest.raises(UserError) as error:
        apply(ARCH, renamed(variables), IMAGES)
    assert "params missing: conv1/bias, conv1/kernel" in str(error.value)
    assert "params not in the network: convolution1/bias, convolution1/kernel" in str(error.value)


@pytest.mark.parametrize(
    ("options", "described"),
    [
        ({"shape": (400, 121)}, r"float32\[400, 121\]"),
        ({"dtype": jnp.bfloat16, "shape": (400, 120)}, r"bfloat16\[400, 120\]"),
    ],
)
def test_a_wrong_shape_or_dtype_is_reported_with_the_expected_one(variables, options, described):
    with pytest.raises(UserError, match=rf"dense1/kernel is {described}, the network has float32\[400, 120\]"):
        apply(ARCH, reshaped(variables, **options), IMAGES)


def test_statistics_that_the_network_does_not_have_are_refused(variables):
    with pytest.raises(UserError, match="batch_stats not in the network: bn/mean"):
        check_variables(ARCH, variables._replace(batch_stats={"bn": {"mean": jnp.zeros(3)}}))


def test_parameters_are_a_function_of_the_seed():
    first, repeated, other = (leaves_by_path(init(ARCH, jax.random.key(seed)).params) for seed in (0, 0, 1))
    for path in first:
        assert np.array_equal(first[path], repeated[path])
        assert np.array_equal(first[path], other[path]) == path.endswith("bias")


class Probe(Arch):
    """A network with parts that LeNet lacks: a list of more than ten layers, a norm, dropout."""

    family = "probe"
    num_classes: Size = 3
    input_size: Size = 4
    channels: Size = 2

    def build(self, rngs):
        return ProbeModule(self, rngs)


class ProbeModule(Network):
    def __init__(self, arch, rngs):
        self.norm = nnx.BatchNorm(arch.channels, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.layers = nnx.List([Dense(2 + i, 3 + i, dtype="float32", rngs=rngs) for i in range(12)])
        self.head = Dense(14, arch.num_classes, dtype="float32", rngs=rngs)

    def features(self, images, rngs=None) -> Features:
        x = self.dropout(self.norm(images), rngs=rngs).mean((1, 2))
        for layer in self.layers:
            x = layer(x)
        return {"stage1": as_map(x)}

    def classify(self, features, rngs=None) -> Outputs:
        return Outputs(self.head(features["stage1"][:, 0, 0]))


@pytest.mark.compiles_large
def test_a_list_of_more_than_ten_layers_keeps_its_order():
    arch = Probe()
    params, _ = variables = init(arch, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (5, 4, 4, 2))
    x = images.mean((1, 2)) / np.sqrt(1 + 1e-5).astype(np.float32)
    for index in range(12):
        x = x @ params["layers"][str(index)]["kernel"] + params["layers"][str(index)]["bias"][None]
    expected = x @ params["head"]["kernel"] + params["head"]["bias"][None]
    np.testing.assert_allclose(apply(arch, variables, images)[0].logits, expected, rtol=1e-4, atol=1e-5)


def test_only_training_updates_the_statistics():
    arch = Probe()
    variables = init(arch, jax.random.key(0))
    images = 3.0 + 2.0 * jax.random.normal(jax.random.key(1), (50, 4, 4, 2))
    _, unmoved = apply(arch, variables, images)
    _, moved = apply(arch, variables, images, train=True, key=jax.random.key(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, unmoved, variables.batch_stats))
    np.testing.assert_allclose(moved["norm"]["mean"], 0.5 * images.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(moved["norm"]["var"], 0.5 + 0.5 * images.var((0, 1, 2)), rtol=1e-4)


def test_randomness_comes_only_from_the_key():
    arch = Probe()
    variables = init(arch, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (5, 4, 4, 2))

    def logits(seed):
        return apply(arch, variables, images, train=True, key=jax.random.key(seed))[0].logits

    assert np.array_equal(logits(2), logits(2))
    assert not np.array_equal(logits(2), logits(3))


def test_layers_are_listed_in_call_order():
    names = [call.name for call in layer_calls(Probe())]
    # dropout is left out, because it does nothing in evaluation
    assert names == ["norm", *(f"layers/{i}" for i in range(12)), "head"]
