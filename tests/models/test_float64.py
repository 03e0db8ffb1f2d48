"""Networks in float64: dtypes, gradients against finite differences, and a comparison with float32."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import apply, create, features, init
from cnnjax.config import Augmentation, Experiment, Optimizer, Train
from cnnjax.data import DeviceSplit, Preprocessing, normalize
from cnnjax.errors import UserError
from cnnjax.functional import Variables, abstract_variables, layer_calls, leaves_by_path
from cnnjax.losses import Batch, CrossEntropy
from cnnjax.ops import dispatch
from cnnjax.optim import make_hyperparameters
from cnnjax.training.evaluation import eval_step, logits_step
from cnnjax.training.state import init_state
from cnnjax.training.step import make_train_step

NETWORKS = {
    "lenet": create("lenet", dtype="float64", activation="tanh"),
    "resnet": create(
        "resnet18", dtype="float64", depths=(1, 1), width=4, num_classes=5, input_size=16, activation="softplus",
        stem="cifar", stochastic_depth=0.5,
    ),
}  # fmt: skip
"""Networks with smooth activations, so that finite differences meet no kink."""


@pytest.fixture(params=["lenet", pytest.param("resnet", marks=pytest.mark.compiles_large)])
def arch(request):
    return NETWORKS[request.param]


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


def batch(arch, count=4):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *arch.image_shape), dtype=np.uint8)
    return images, rng.integers(0, arch.num_classes, count, dtype=np.int32)


def preprocessing(arch):
    channels = arch.channels
    return Preprocessing(height=arch.input_size, width=arch.input_size, mean=(0.4,) * channels, std=(0.3,) * channels)


def make_loss(arch):
    """Return the training loss as a function (params, batch_stats) -> (loss, new statistics)."""
    images, labels = batch(arch)

    def loss(params, batch_stats):
        pixels = normalize(preprocessing(arch), images, arch.dtype)
        outputs, moved = apply(arch, Variables(params, batch_stats), pixels, train=True, key=jax.random.key(2))
        losses = CrossEntropy()(outputs, Batch(pixels, jnp.asarray(labels)), SimpleNamespace(label_smoothing=0.1))
        return losses.mean(), moved

    return loss


def gradient(arch, variables):
    return jax.jit(jax.value_and_grad(make_loss(arch), has_aux=True))(*variables)


def dtypes(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)}


@pytest.mark.compiles_large
def test_everything_is_float64(wide, arch):
    variables = init(arch, jax.random.key(0))
    images, labels = batch(arch)
    pixels = normalize(preprocessing(arch), images, arch.dtype)
    assert dtypes(pixels) == dtypes(variables.params) == dtypes(abstract_variables(arch)) == {"float64"}
    np.testing.assert_allclose(pixels, (images / 255 - 0.4) / 0.3, rtol=1e-14, atol=1e-15)
    outputs, batch_stats = apply(arch, variables, pixels)
    assert dtypes(outputs) == {"float64"}
    assert dtypes(features(arch, variables, pixels)) == {"float64"}
    (loss, moved), grads = gradient(arch, variables)
    assert dtypes(loss) == dtypes(grads) == {"float64"}
    if arch.family == "resnet":
        assert dtypes(variables.batch_stats) == dtypes(batch_stats) == dtypes(moved) == {"float64"}
    split = DeviceSplit(*map(jnp.asarray, (images, labels)))
    sums = eval_step(arch, preprocessing(arch), variables, split, np.arange(4), np.ones(4, bool))
    assert sums.loss.dtype == jnp.float64
    assert logits_step(arch, preprocessing(arch), variables, images).dtype == jnp.float64


@pytest.mark.compiles_large
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["momentum", "adam", "rmsprop"])
def test_a_train_step_keeps_the_dtype_of_its_state(wide, name, dtype):
    arch = NETWORKS["resnet"].replace(dtype=dtype)
    experiment = Experiment(
        model=arch, optimizer=Optimizer(name=name, lr=1e-2, weight_decay=1e-4, clip_norm=1.0),
        augmentation=Augmentation(pad_crop=1, flip=True),
        train=Train(batch_size=4, accumulate=2, remat=("stage1",), label_smoothing=0.1, ema_decay=0.9),
    )  # fmt: skip
    values = make_hyperparameters(experiment, 10)
    step, state = make_train_step(experiment, preprocessing(arch)), init_state(experiment, values)
    seen = Batch(*map(jnp.asarray, batch(arch)))
    after = jax.eval_shape(step, state, seen, jax.random.key(1), values)
    assert dtypes(state) == dtypes(after) == {dtype}
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)


@pytest.mark.compiles_large
def test_the_gradient_equals_finite_differences(wide, arch):
    variables = init(arch, jax.random.key(0))
    (_, _), grads = gradient(arch, variables)
    loss, by_path = jax.jit(make_loss(arch)), leaves_by_path(grads)
    rng = np.random.default_rng(1)
    for path, leaf in by_path.items():
        direction = rng.normal(size=leaf.shape) * (np.abs(leaf) > 1e-3 * np.abs(leaf).max())  # some entries of a leaf
        slope = float((leaf * direction).sum())

        def along(distance, path=path, direction=direction):
            moved = jax.tree_util.tree_map_with_path(
                lambda key, p: (
                    p + distance * direction if jax.tree_util.keystr(key, simple=True, separator="/") == path else p
                ),
                variables.params,
            )
            return float(loss(moved, variables.batch_stats)[0])

        h = 1e-4  # the five-point formula has errors of order h ** 4
        difference = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
        assert abs(difference - slope) <= 1e-6 * abs(slope), path


@pytest.mark.compiles_large
def test_float32_is_close_to_float64(wide, arch):
    variables = init(arch, jax.random.key(0))
    narrow_arch = arch.replace(dtype="float32")
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), variables)
    images, _ = batch(arch)
    logits = [
        apply(a, v, normalize(preprocessing(a), images, a.dtype))[0].logits
        for a, v in ((arch, variables), (narrow_arch, narrow))
    ]
    assert logits[1].dtype == jnp.float32
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=1e-5 * np.abs(logits[0]).max())
    (loss, moved), grads = gradient(arch, variables)
    (narrow_loss, narrow_moved), narrow_grads = gradient(narrow_arch, narrow)
    assert dtypes((narrow_loss, narrow_moved, narrow_grads)) == {"float32"}
    assert abs(float(narrow_loss) - float(loss)) < 1e-5 * float(loss)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads))
    for ours, theirs in zip(
        jax.tree.leaves((narrow_moved, narrow_grads)), jax.tree.leaves((moved, grads)), strict=True
    ):
        assert np.abs(np.asarray(ours, np.float64) - theirs).max() < 1e-5 * max(scale, 1)


def test_float32_networks_stay_float32_under_x64(wide):
    for dtype in ("float32", "bfloat16"):
        variables = init(NETWORKS["resnet"].replace(dtype=dtype), jax.random.key(0))
        assert dtypes(variables) == {"float32"}


def test_the_native_library_is_never_used(monkeypatch):
    """It is not used even if it is present and JAX runs on a CPU."""
    monkeypatch.setattr(dispatch.library, "load_kernels", lambda: object())
    monkeypatch.setattr(dispatch.library, "load", lambda: type("Library", (), {"version": "x", "has_bfloat16": True}))
    for dtype, chosen in (("float32", True), ("float64", False)):
        assert dispatch.has_kernels(jnp.dtype(dtype)) is chosen
        assert (dispatch.conv_library(jnp.dtype(dtype)) == "x") is chosen


def test_float64_without_x64_is_refused(arch):
    message = "^model.dtype is 'float64' and JAX is limited to 32 bits; choose 'float32' or 'bfloat16', or set "
    with jax.enable_x64(True):
        variables = init(arch, jax.random.key(0))
    images = np.zeros((1, *arch.image_shape), np.float32)
    for call in (
        lambda: init(arch, jax.random.key(0)),
        lambda: apply(arch, variables, images),
        lambda: features(arch, variables, images),
        lambda: abstract_variables(arch),
        lambda: layer_calls(arch),
    ):
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
