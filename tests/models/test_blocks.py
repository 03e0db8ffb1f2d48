"""Blocks that several families share, and rectangular convolutions, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow
from flax import nnx
from jax import export

from cnnjax.errors import UserError
from cnnjax.models.blocks import Branches, SeparableConv, SqueezeExcite
from cnnjax.models.layers import HE, BatchNorm, Conv
from cnnjax.models.pools import MaxPool
from cnnjax.ops.native.library import HANDLERS


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def image(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def options(dtype="float64", seed=0):
    return {"dtype": dtype, "rngs": nnx.Rngs(seed)}


def values(layer):
    return np.asarray(layer.get_value())


def convolution(x, kernel, strides, edges, groups=1):
    """Return each output as the sum over its window; `edges` are (above, below), (left, right)."""
    height, width, inputs, outputs = kernel.shape
    padded = np.pad(x, ((0, 0), *edges, (0, 0)))
    rows, columns = ((padded.shape[1 + a] - kernel.shape[a]) // strides[a] + 1 for a in (0, 1))
    result = np.zeros((len(x), rows, columns, outputs))
    for o in range(outputs):
        first = o // (outputs // groups) * inputs
        for i in range(rows):
            for j in range(columns):
                top, left = i * strides[0], j * strides[1]
                window = padded[:, top : top + height, left : left + width, first : first + inputs]
                result[:, i, j, o] = (window * kernel[None, :, :, :, o]).sum((1, 2, 3))
    return result


@pytest.mark.parametrize("groups", mostly_slow([2, 1, 4], 1))
@pytest.mark.parametrize(
    ("size", "stride", "padding", "edges"),
    [
        ((1, 7), 1, (0, 3), ((0, 0), (3, 3))),
        ((7, 1), 1, (3, 0), ((3, 3), (0, 0))),
        ((3, 2), (2, 1), 1, ((1, 1), (1, 1))),
        (3, (1, 2), "SAME", ((1, 1), (0, 1))),
        ((1, 3), (2, 3), "VALID", ((0, 0), (0, 0))),
        ((1, 1), (2, 3), 0, ((0, 0), (0, 0))),
    ],
)
def test_rectangular_convolutions_equal_numpy(size, stride, padding, edges, groups):
    conv = Conv(4, 8, size, stride=stride, padding=padding, groups=groups, **options())
    conv.bias.set_value(jnp.asarray(image(8, 1)))
    x = image((2, 9, 8, 4))
    strides = stride if isinstance(stride, tuple) else (stride, stride)
    expected = convolution(x, values(conv.kernel), strides, edges, groups) + values(conv.bias)[None, None, None]
    actual = conv(jnp.asarray(x))
    assert actual.dtype == jnp.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("option", "value"), [("size", (3, 3, 3)), ("size", 0), ("stride", (1, 0)), ("padding", -1), ("padding", (0, 1.5))]
)
def test_invalid_windows_are_refused(option, value):
    with pytest.raises(UserError, match=rf"{option} is .*; it must be a whole number or a \(height, width\) pair"):
        Conv(1, 1, **{"size": 3, "stride": 1, "padding": 0, option: value}, **options())


def gate(x, block):
    hidden = np.maximum(x.mean((1, 2)) @ values(block.fc1.kernel)[0, 0] + values(block.fc1.bias)[None], 0)
    return 1 / (1 + np.exp(-(hidden @ values(block.fc2.kernel)[0, 0] + values(block.fc2.bias)[None])))


def test_squeeze_and_excitation_equals_its_formula():
    block, x = SqueezeExcite(6, 2, **options()), image((3, 5, 4, 6))
    block.fc1.bias.set_value(jnp.asarray(image(2, 1)))
    block.fc2.bias.set_value(jnp.asarray(image(6, 2)))
    np.testing.assert_allclose(block(jnp.asarray(x)), x * gate(x, block)[:, None, None], rtol=1e-12)
    assert block.fc1.kernel.shape == (1, 1, 6, 2)
    swish = SqueezeExcite(6, 2, activation=jax.nn.silu, **options())
    plain = SqueezeExcite(6, 2, **options())
    assert (swish(jnp.asarray(x)) != plain(jnp.asarray(x))).any()
    with pytest.raises(UserError, match="reduced is 0; it must be 1 or more"):
        SqueezeExcite(6, 0, **options())


def test_branches_are_concatenated_in_order():
    narrow, tall = Conv(3, 2, 1, padding=0, **options()), Conv(3, 4, (7, 1), padding=(3, 0), **options(seed=1))
    x = jnp.asarray(image((2, 6, 5, 3)))
    block = Branches(tall=tall, pool=MaxPool(3, 1, padding=1), narrow=narrow)
    np.testing.assert_array_equal(block(x), jnp.concatenate([tall(x), MaxPool(3, 1, padding=1)(x), narrow(x)], -1))
    names = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(block, nnx.Param))}
    assert names == {"tall/kernel", "tall/bias", "narrow/kernel", "narrow/bias"}


def test_branches_that_do_not_fit_are_refused():
    conv = Conv(3, 2, 3, padding=0, **options())
    with pytest.raises(UserError, match="the branches return maps of conv 4x3, pool 6x5; all must have the same size"):
        Branches(conv=conv, pool=MaxPool(1))(jnp.zeros((1, 6, 5, 3)))
    with pytest.raises(UserError, match=r"branches is \[\]; it must be one or more"):
        Branches()
    with pytest.raises(UserError, match="branch 'act' is 'function'; it must be a module"):
        Branches(act=lambda x: x)
    with pytest.raises(UserError, match="branch name is 'train'; it must be a name that nnx.Module does not use"):
        Branches(train=conv)


def make_norm(channels):
    norm = BatchNorm(channels, momentum=0.9, epsilon=1e-3, unbiased_variance=True, **options())
    for number, leaf in enumerate((norm.scale, norm.bias, norm.mean, norm.var)):
        leaf.set_value(jnp.asarray(np.abs(image(channels, number)) + 0.1))
    norm.use_running_average = True
    return norm


@pytest.mark.parametrize("with_norm", [True, False])
def test_a_separable_convolution_is_depthwise_then_pointwise(with_norm):
    norm = make_norm(6) if with_norm else None
    block = SeparableConv(4, 6, (3, 1), stride=(1, 2), padding=(1, 0), norm=norm, kernel_init=HE, **options())
    x, residual = image((2, 5, 6, 4)), image((2, 5, 3, 6), 1)
    spread = convolution(np.maximum(x, 0), values(block.depthwise.kernel), (1, 2), ((1, 1), (0, 0)), groups=4)
    expected = spread @ values(block.pointwise.kernel)[0, 0]
    if norm is not None:
        scale = values(norm.scale) / np.sqrt(values(norm.var) + 1e-3)
        expected = (expected - values(norm.mean)) * scale + values(norm.bias)
    actual = block(jnp.asarray(x), before=jax.nn.relu, activation=jnp.tanh, residual=jnp.asarray(residual))
    np.testing.assert_allclose(actual, np.tanh(expected + residual), rtol=1e-11, atol=1e-13)


BLOCKS = {
    "squeeze": lambda dtype: SqueezeExcite(4, 2, **options(dtype)),
    "branches": lambda dtype: Branches(
        a=Conv(4, 3, (1, 3), padding=(0, 1), **options(dtype)), b=MaxPool(3, 1, padding=1)
    ),
    "separable": lambda dtype: SeparableConv(4, 6, **options(dtype)),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.compiles_large
def test_blocks_keep_their_dtype_and_agree_with_float64(name, dtype):
    """Parameters are drawn in float64 and rounded to the dtype."""
    wide, block = BLOCKS[name]("float64"), BLOCKS[name](dtype)
    drawn = nnx.state(wide, nnx.Param)
    nnx.update(block, jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), drawn, nnx.state(block, nnx.Param)))
    x = jnp.asarray(image((2, 5, 6, 4)), dtype)
    actual, expected = block(x), wide(x.astype(jnp.float64))
    assert actual.dtype == x.dtype
    np.testing.assert_allclose(
        actual.astype(jnp.float64), expected, atol={"bfloat16": 0.05, "float32": 1e-6, "float64": 0}[dtype]
    )


NATIVE_CALLS = [export.DisabledSafetyCheck.custom_call(target) for target in HANDLERS]
"""Custom calls of the native library, if it is built."""


@pytest.mark.compiles_large
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_export_with_a_symbolic_batch_size(name):
    block = BLOCKS[name]("float32")
    (batch,) = export.symbolic_shape("batch")
    exported = export.export(jax.jit(block.__call__), disabled_checks=NATIVE_CALLS)(
        jax.ShapeDtypeStruct((batch, 6, 7, 4), jnp.float32)
    )
    for count in (1, 3):
        x = jnp.asarray(image((count, 6, 7, 4)), jnp.float32)
        np.testing.assert_allclose(exported.call(x), block(x), rtol=1e-5, atol=1e-6)
