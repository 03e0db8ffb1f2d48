"""The native batch norm in training, compared with its formula in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.models import layers
from cnnjax.ops import dispatch
from cnnjax.ops.native.batch_norm import batch_norm
from tests.native.test_native_convolution import CLOSE, error, random
from tests.native.test_winograd import needs_kernels

EPSILON = 1e-3
pytestmark = needs_kernels


def by_formula(x, scale, offset, *residual, relu):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - mean[None, None, None]) / jnp.sqrt(variance + EPSILON)[None, None, None]
    y = y * scale[None, None, None] + offset[None, None, None] + (residual[0] if residual else 0.0)
    return jnp.maximum(y, 0.0) if relu else y, mean, variance


def ours(x, scale, offset, *residual, relu):
    return batch_norm(x, scale, offset, epsilon=EPSILON, relu=relu, residual=residual[0] if residual else None)


def operands(shape, residual, seed=0, mean=3.0):
    x, scale, offset, more = random(seed, shape, shape[-1:], shape[-1:], shape)
    return (x + np.float32(mean), scale + 1, offset, *([more] if residual else []))


def value_and_cotangents(function, cotangent, *arguments):
    y, back = jax.vjp(lambda *given: function(*given)[0], *arguments)
    return y, *back(cotangent)


def gradients_by_formula(cotangent, x, scale, offset, *residual, relu):
    """Return (y, dx, dscale, doffset, dresidual) in float64."""
    cotangent, x, scale, offset, *residual = (
        part.astype(np.float64) for part in (cotangent, x, scale, offset, *residual)
    )
    axes, deviation = (0, 1, 2), np.sqrt(x.var((0, 1, 2)) + EPSILON)
    standard = (x - x.mean(axes)) / deviation
    y = standard * scale + offset + sum(residual)
    passed = np.where(y > 0, cotangent, 0) if relu else cotangent
    along = passed - passed.mean(axes) - standard * (passed * standard).mean(axes)
    actual = [
        np.maximum(y, 0) if relu else y,
        along * scale / deviation,
        (passed * standard).sum(axes),
        passed.sum(axes),
    ]
    return actual + [passed] * len(residual)


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 80)).filter(
    lambda shape: shape[0] * shape[1] * shape[2] >= 8
)


@given(shapes, st.booleans(), st.booleans(), st.integers(0, 2**31))
def test_output_and_gradients_equal_the_formula_in_float64(shape, relu, residual, seed):
    given_operands = operands(shape, residual, seed)
    (cotangent,) = random(seed + 1, shape)
    function = functools.partial(ours, relu=relu)
    y, mean, variance = function(*given_operands)
    cotangent[np.abs(np.asarray(y)) < 1e-4] = 0  # near the kink of ReLU, rounding decides
    actual = value_and_cotangents(function, cotangent, *given_operands)
    expected = gradients_by_formula(cotangent, *given_operands, relu=relu)
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.shape == theirs.shape
        assert np.abs(np.asarray(mine) - theirs).max() < 2e-5 * (1 + np.abs(theirs).max())
    wide = given_operands[0].astype(np.float64)
    assert error(mean, wide.mean((0, 1, 2))) < CLOSE
    assert error(variance, wide.var((0, 1, 2))) < CLOSE


@pytest.mark.parametrize("shape", [(64, 40, 40, 16), (1, 91, 91, 3), (9, 14, 1, 17)])
def test_a_large_mean_loses_no_precision(shape):
    x, scale, offset = operands(shape, False, mean=300.0)
    _, mean, variance = ours(x, scale, offset, relu=False)
    assert error(mean, x.mean((0, 1, 2), dtype=np.float64)) < 1e-6
    assert error(variance, x.var((0, 1, 2), dtype=np.float64)) < CLOSE


@pytest.mark.parametrize(
    ("relu", "residual"), mostly_slow([(True, True), (False, True), (True, False), (False, False)], 1)
)
def test_forward_mode_second_derivatives_and_vmap(relu, residual):
    given_operands = operands((2, 3, 4, 5), residual)
    mine = functools.partial(ours, relu=relu)
    exact = functools.partial(by_formula, relu=relu)

    def bent(function):  # a nonlinear function of all three results
        return lambda *of: sum(jnp.sum(jnp.sin(part)) for part in function(*of))

    tangents = operands((2, 3, 4, 5), residual, seed=1)
    for actual, expected in (
        (jax.jvp(mine, given_operands, tangents)[1], jax.jvp(exact, given_operands, tangents)[1]),
        (jax.hessian(bent(mine))(*given_operands), jax.hessian(bent(exact))(*given_operands)),
        (jax.grad(bent(mine), 1)(*given_operands), jax.grad(bent(exact), 1)(*given_operands)),
    ):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-4), actual, expected)
    members = [jnp.stack([x, 2 * x]) for x in given_operands]
    for actual, expected in zip(jax.vmap(mine)(*members), jax.vmap(exact)(*members), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_results_are_reproducible():
    given_operands = operands((16, 9, 9, 48), True)
    (cotangent,) = random(1, given_operands[0].shape)
    both = jax.jit(functools.partial(value_and_cotangents, functools.partial(ours, relu=True)))
    first = both(cotangent, *given_operands)
    for _ in range(20):
        assert jax.tree.all(jax.tree.map(np.array_equal, both(cotangent, *given_operands), first))


def test_nan_propagates():
    x, scale, offset = operands((2, 4, 4, 3), False)
    x[0, 1, 2, 1] = np.nan
    actual = np.asarray(ours(x, scale, offset, relu=True)[0])
    assert np.isnan(actual[..., 1]).all()
    assert np.isfinite(actual[..., (0, 2)]).all()


@pytest.mark.parametrize("wrong", [
    {"scale": jnp.ones(1)}, {"offset": jnp.ones((1, 3))}, {"residual": jnp.ones((2, 4, 1, 3))},
    {"residual": jnp.ones(3)},
])  # fmt: skip
def test_mismatched_arrays_are_refused(wrong):
    fitting = {"scale": jnp.ones(3), "offset": jnp.ones(3), "residual": None}
    with pytest.raises(ValueError, match="must be float32"):
        batch_norm(jnp.ones((2, 4, 4, 3)), epsilon=EPSILON, **{**fitting, **wrong})


@pytest.mark.parametrize("trains", [True, False])
def test_layers_use_the_native_batch_norm_only_in_training(trains):
    norm = layers.BatchNorm(3, momentum=0.9, epsilon=EPSILON, unbiased_variance=True, dtype="float32", rngs=nnx.Rngs(0))
    norm.use_running_average = not trains
    graph, state = nnx.split(norm)
    compute = jax.jit(lambda state, x: nnx.merge(graph, state)(x, activation=jax.nn.relu))
    text = compute.lower(state, jnp.ones((2, 4, 4, 3))).as_text()
    assert ("cnnjax_batch_norm" in text) == trains


def test_a_layer_uses_the_native_batch_norm_only_for_float32(monkeypatch):
    assert dispatch.norm_algorithm(jnp.float32) == "native"
    assert dispatch.norm_algorithm(jnp.bfloat16) == "xla"
    monkeypatch.setattr(dispatch.library, "load_kernels", lambda: None)
    assert dispatch.norm_algorithm(jnp.float32) == "xla"
