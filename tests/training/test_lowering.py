"""Train steps of every family lower for every platform, without its hardware."""

import jax
import jax.numpy as jnp
import pytest
from conftest import mostly_slow

from cnnjax import apply, create
from cnnjax.config import Augmentation, Experiment, Optimizer, Train
from cnnjax.data import DeviceSplit, Preprocessing
from cnnjax.functional import abstract_variables
from cnnjax.models import FAMILIES
from cnnjax.models.regnet import AnyNet
from cnnjax.ops.dispatch import conv_library, norm_algorithm
from cnnjax.ops.native.library import HANDLERS
from cnnjax.optim import make_hyperparameters
from cnnjax.training.state import init_state, step_key
from cnnjax.training.step import make_dispatch, make_train_step

SMALL = {"num_classes": 10, "input_size": 32, "channels": 3}
RESNET = {**SMALL, "depths": (1, 1), "width": 16, "stochastic_depth": 0.1}
ARCHS = {
    "lenet": create("lenet", **SMALL),
    "lenet 1998": create("lenet_1998", **SMALL),
    "mlp": create("mlp", **SMALL),
    "basic": create("resnet18", **RESNET),
    "bottleneck": create("resnet50", **RESNET),
    "grouped": create("resnext50_32x4d", **{**RESNET, "width": 64}),
    "v2": create("resnet50_v2", **RESNET),
    "cifar": create("resnet20_cifar", depths=(1, 1, 1)),
    "alexnet": create("alexnet_lrn", **SMALL, stem="cifar", width=8),
    "vgg": create("vgg11_bn", **SMALL, width=8),
    "googlenet": create("googlenet", **SMALL, stem="cifar", width=16, aux_heads=True),
    "inception v3": create("inception_v3", **SMALL, stem="cifar", width=8),
    "anynet": AnyNet(**SMALL, depths=(1, 1), widths=(8, 16), bottlenecks=(1, 2), group_widths=(8, 4)),
    "regnet": create("regnet_y_400mf", **SMALL, depth=3, w_0=8, w_a=8.0, w_m=2.0),
    "xception": create("xception", **SMALL, stem="cifar", width=16, middle_blocks=1),
    "speed": create("airbench94", width=8),
}
BATCH = 4


def export(arch, *platforms, steps, native=False):
    """Return the exported module of a dispatch with donation. Nothing runs; unknown custom calls are refused."""
    experiment = Experiment(
        model=arch, optimizer=Optimizer(name="adamw", weight_decay=0.01, clip_norm=1.0),
        augmentation=Augmentation(pad_crop=2, flip=True), train=Train(ema_decay=0.99, label_smoothing=0.1),
    )  # fmt: skip
    values = make_hyperparameters(experiment, 2)
    height, width, channels = arch.image_shape
    preprocessing = Preprocessing(height=height, width=width, mean=(0.5,) * channels, std=(0.25,) * channels)
    train_step = make_train_step(experiment, preprocessing)
    images = jax.ShapeDtypeStruct((2 * BATCH, *arch.image_shape), jnp.uint8)
    numbers = jax.ShapeDtypeStruct((2 * BATCH,), jnp.int32)
    state, key = jax.eval_shape(lambda: (init_state(experiment, values), step_key(0)))
    known = [jax.export.DisabledSafetyCheck.custom_call(target) for target in HANDLERS] if native else []
    exporting = jax.export.export(make_dispatch(train_step, BATCH, 2), platforms=platforms, disabled_checks=known)
    return exporting(state, DeviceSplit(images, numbers), numbers, key, values, steps=steps).mlir_module()


QUICK = (("lenet", "float32"), ("basic", "bfloat16"))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if (name, dtype) in QUICK else pytest.mark.compiles_large)
        for name in ARCHS for dtype in ("float32", "bfloat16")
    ],
)  # fmt: skip
def test_a_donated_step_lowers_for_every_platform_and_uses_native_calls_only_on_the_cpu(name, dtype):
    arch = ARCHS[name].replace(dtype=dtype)
    native = name != "mlp" and conv_library(jnp.dtype(dtype)) != "xla-cpu"
    accelerators = export(arch, "cuda", "tpu", steps=2)  # several steps, as `steps_per_dispatch` chooses there
    cpu = export(arch, "cpu", steps=1, native=native)
    assert not any(name in accelerators for name in HANDLERS)
    assert ("cnnjax_convolution" in cpu) == native
    norms = bool(abstract_variables(arch).batch_stats)
    assert ("cnnjax_batch_norm" in cpu) == (norms and norm_algorithm(jnp.dtype(dtype)) == "native")
    for module in (accelerators, cpu):
        assert "tf.aliasing_output" in module or "jax.buffer_donor" in module


@pytest.mark.parametrize("name", mostly_slow(list(ARCHS), 4))
def test_inference_exports_with_a_symbolic_batch_size(name):
    arch, (batch,) = ARCHS[name], jax.export.symbolic_shape("batch")
    known = [jax.export.DisabledSafetyCheck.custom_call(target) for target in HANDLERS]
    exporting = jax.export.export(
        jax.jit(lambda variables, images: apply(arch, variables, images)[0].logits),
        platforms=["cpu", "cuda", "tpu"],
        disabled_checks=known,
    )
    exported = exporting(abstract_variables(arch), jax.ShapeDtypeStruct((batch, *arch.image_shape), jnp.float32))
    assert [str(size) for size in exported.out_avals[0].shape] == ["batch", "10"]


def test_every_family_is_covered():
    assert {type(arch) for arch in ARCHS.values()} == set(FAMILIES.values())
