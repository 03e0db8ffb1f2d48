"""Every family's donated train step lowers for every platform, on a machine that has none of them."""

import jax
import jax.numpy as jnp
import pytest

from cnnjax import apply, create
from cnnjax.config import Augmentation, Optimizer
from cnnjax.data import Preprocessing
from cnnjax.functional import abstract_variables
from cnnjax.models import FAMILIES, convolution
from cnnjax.models.layers import norm_lowering, pooling_lowering
from cnnjax.models.resnet import ResNet
from cnnjax.native.library import HANDLERS
from cnnjax.optim import make_optimizer
from cnnjax.training.evaluation import DeviceSplit
from cnnjax.training.step import init_state, make_dispatch, make_train_step, step_key

SMALL = {"num_classes": 10, "input_size": 32, "channels": 3}
RESNET = {**SMALL, "depths": (1, 1), "width": 16, "stochastic_depth": 0.1}
ARCHS = {
    "lenet": create("lenet", **SMALL),
    "mlp": create("mlp", **SMALL),
    "basic": create("resnet18", **RESNET),
    "bottleneck": create("resnet50", **RESNET),
    "grouped": create("resnext50_32x4d", **{**RESNET, "width": 64}),
    "v2": create("resnet50_v2", **RESNET),
    "cifar": create("resnet20_cifar", depths=(1, 1, 1)),
}
BATCH = 4


def export(arch, *platforms, steps, native=False):
    """Return the module of a donated dispatch; nothing is computed, and calls unknown to JAX are refused."""
    optimizer = make_optimizer(Optimizer(name="adamw", weight_decay=0.01, clip_norm=1.0), lambda step: 1e-3)
    height, width, channels = arch.image_shape
    preprocessing = Preprocessing(height=height, width=width, mean=(0.5,) * channels, std=(0.25,) * channels)
    train_step = make_train_step(arch, optimizer, preprocessing, 0.1, Augmentation(pad_crop=2, flip=True))
    images = jax.ShapeDtypeStruct((2 * BATCH, *arch.image_shape), jnp.uint8)
    numbers = jax.ShapeDtypeStruct((2 * BATCH,), jnp.int32)
    state, key = jax.eval_shape(lambda: (init_state(arch, optimizer, 0), step_key(0)))
    known = [jax.export.DisabledSafetyCheck.custom_call(target) for target in HANDLERS] if native else []
    exporting = jax.export.export(make_dispatch(train_step, BATCH, 2), platforms=platforms, disabled_checks=known)
    return exporting(state, DeviceSplit(images, numbers), numbers, key, steps=steps).mlir_module()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ARCHS)
def test_a_donated_step_lowers_for_every_platform_and_natively_for_the_cpu_alone(name, dtype):
    arch = ARCHS[name].replace(dtype=dtype)
    native = name != "mlp" and convolution.lowering(jnp.dtype(dtype)) != "xla-cpu"
    accelerators = export(arch, "cuda", "tpu", steps=2)  # each in the way that `steps_per_dispatch` takes there
    cpu = export(arch, "cpu", steps=1, native=native)
    assert not any(name in accelerators for name in HANDLERS)
    assert ("cnnjax_convolution" in cpu) == native
    pools = isinstance(arch, ResNet) and arch.stem == "imagenet"
    assert ("cnnjax_max_pool" in cpu) == (pools and pooling_lowering(jnp.dtype(dtype)) == "native")
    norms = isinstance(arch, ResNet)
    assert ("cnnjax_batch_norm" in cpu) == (norms and norm_lowering(jnp.dtype(dtype)) == "native")
    for module in (accelerators, cpu):
        assert "tf.aliasing_output" in module or "jax.buffer_donor" in module


@pytest.mark.parametrize("name", ARCHS)
def test_inference_is_exported_for_any_batch(name):
    arch, (batch,) = ARCHS[name], jax.export.symbolic_shape("batch")
    known = [jax.export.DisabledSafetyCheck.custom_call(target) for target in HANDLERS]
    exporting = jax.export.export(
        jax.jit(lambda variables, images: apply(arch, variables, images)[0].logits),
        platforms=["cpu", "cuda", "tpu"],
        disabled_checks=known,
    )
    exported = exporting(abstract_variables(arch), jax.ShapeDtypeStruct((batch, *arch.image_shape), jnp.float32))
    assert [str(size) for size in exported.out_avals[0].shape] == ["batch", "10"]


def test_every_family_is_here():
    assert {type(arch) for arch in ARCHS.values()} == set(FAMILIES.values())
