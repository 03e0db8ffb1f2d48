"""Packed convolutions and shared batches of stacked members equal plain `jax.vmap` and standalone runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxprs_in_params

from cnnjax import create, data
from cnnjax.config import Augmentation, Data, Experiment, Optimizer, Train
from cnnjax.functional import leaves_by_path
from cnnjax.ops import conv, dispatch, packing
from cnnjax.ops.window import Window
from cnnjax.training.loop import fit
from cnnjax.training.stacked import StackMember, fit_stacked, share_batches, shared_stacked_dispatch
from tests.faults.harness import write_digits

OPTIONS = (("dimension_numbers", ("NHWC", "HWIO", "NHWC")),)
WINDOWS = {
    "5x5": Window((1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "strided": Window((2, 1), ((1, 2), (0, 3)), (1, 1), 1),
    "dilated": Window((1, 1), ((4, 4), (4, 4)), (2, 2), 1),
}
SHAPES = {"lenet": (11, 6, 16), "one channel": (5, 1, 3), "wide": (3, 64, 80)}
"""Members, channels and output channels: packs of 8 and 3, one pack of all, and none."""


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


@pytest.fixture
def packed_members(monkeypatch):
    """Take XLA's convolutions, as on an accelerator, so that a stack packs its members."""
    monkeypatch.setattr(dispatch, "conv_library", lambda dtype: "xla")


@pytest.mark.compiles_large
@pytest.mark.parametrize(
    ("shape", "window"), [*(("lenet", window) for window in WINDOWS), ("one channel", "5x5"), ("wide", "5x5")]
)
@pytest.mark.parametrize("shared", [False, True])
def test_packed_convolutions_and_gradients_equal_those_of_vmap(shape, shared, window):
    members, inputs, outputs = SHAPES[shape]
    with jax.enable_x64(True):
        images = random(*(() if shared else (members,)), 2, 8, 9, inputs)
        kernel = random(members, 5 if window != "dilated" else 3, 5 if window != "dilated" else 3, inputs, outputs)
        place = WINDOWS[window]

        def plain(images, kernel):
            return lax.conv_general_dilated(
                images, kernel, place.strides, place.padding, rhs_dilation=place.dilation, **dict(OPTIONS)
            )

        def values(function):
            def loss(images, kernel):
                y = function(images, kernel)
                return (y * jnp.cos(y)).sum(), y

            gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
            return jax.jit(jax.vmap(gradient, in_axes=(None if shared else 0, 0)))(images, kernel)

        expected = values(plain)
        got = values(functools.partial(packing.convolution, window=place, options=OPTIONS))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-11)


def convolutions_of(function, *arguments):
    """Return the kernel shape and the number of groups of each convolution in a program."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                groups = equation.params["feature_group_count"] * equation.params["batch_group_count"]
                yield equation.invars[1].aval.shape, groups
            for inner in jaxprs_in_params(equation.params):
                yield from walk(inner)

    return list(walk(jax.make_jaxpr(function)(*arguments).jaxpr))


def convolve(images, kernel):
    return conv.conv_general_dilated(
        images, kernel, (1, 1), "SAME", rhs_dilation=(1, 1), feature_group_count=1, **dict(OPTIONS)
    )


def test_a_stack_has_dense_convolutions_and_a_program_of_one_run_stays_as_it_was(packed_members):
    images, kernel = random(8, 2, 6, 6, 6), random(8, 5, 5, 6, 16)
    grouped = [((5, 5, 6, 128), 8)]
    assert convolutions_of(jax.vmap(convolve), images, kernel) == grouped
    with dispatch.side_by_side():
        assert convolutions_of(jax.vmap(convolve), images, kernel) == [((5, 5, 48, 128), 1)]
        shared = convolutions_of(jax.vmap(convolve, in_axes=(None, 0)), images[0], kernel)
        assert shared == [((5, 5, 6, 128), 1)]
    assert convolutions_of(jax.vmap(convolve), images, kernel) == grouped


@pytest.mark.parametrize(
    ("members", "inputs", "outputs", "expected"),
    [(64, 6, 16, 8), (64, 1, 6, 8), (3, 6, 16, 3), (64, 32, 32, 4), (64, 64, 64, 2), (64, 64, 80, 1), (64, 256, 8, 1)],
)
def test_the_channels_decide_how_many_members_share_a_kernel(members, inputs, outputs, expected):
    assert dispatch.members_packed(members, inputs, outputs) == expected


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return Experiment(
        model=create("lenet", input_size=12, dtype="float64"),
        data=Data(source="mnist", dir=str(folder), validation=0.2),
        augmentation=Augmentation(pad_crop=1),
        optimizer=Optimizer(name="momentum", lr=0.05),
        train=Train(epochs=2, batch_size=32, eval_batch_size=80),
    )


@pytest.mark.compiles_large
@pytest.mark.parametrize("seeds", [(0, 0, 0), (0, 1, 2)])
def test_packed_members_equal_standalone_runs(base, packed_members, monkeypatch, seeds):
    """With one seed they also share their batches. One member stops after an epoch; the first one is masked then."""
    with jax.enable_x64(True):
        shorter = base.replace(seed=seeds[0], train=base.train.replace(epochs=1))
        others = [base.replace(seed=seed, optimizer=base.optimizer.replace(lr=lr)) for seed, lr in
                  zip(seeds[1:], (0.02, 0.1), strict=True)]  # fmt: skip
        experiments, dataset = [shorter, *others], data.load(base.data)
        chosen, make = [], shared_stacked_dispatch.__wrapped__
        monkeypatch.setattr(
            "cnnjax.training.stacked.shared_stacked_dispatch", lambda *a: (chosen.append(a[3]), make(*a))[1]
        )
        stack = [(number, StackMember(experiment, None, ())) for number, experiment in enumerate(experiments)]
        ended = dict(fit_stacked(stack, dataset))
        assert chosen == [len(set(seeds)) == 1]
        for number, experiment in enumerate(experiments):
            alone, together = (leaves_by_path(outcome.snapshot.state.params) for outcome in
                               (fit(experiment, dataset), ended[number]))  # fmt: skip
            assert max(float(np.abs(together[path] - leaf).max()) for path, leaf in alone.items()) < 1e-9
            assert ended[number].epochs == experiment.train.epochs


def test_members_share_batches_only_with_one_seed_in_one_epoch(base):
    class Live:
        def __init__(self, seed, epochs):
            self.experiment, self.snapshot = base.replace(seed=seed), type("S", (), {"rows": [{}] * epochs})

    assert share_batches([Live(1, 2), Live(1, 2)])
    assert not share_batches([Live(1, 2), Live(2, 2)])
    assert not share_batches([Live(1, 2), Live(1, 1)])
