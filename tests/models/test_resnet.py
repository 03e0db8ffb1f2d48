import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import create, features, init
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables, leaves_by_path
from cnnjax.models.layers import max_pool

apply = jax.jit(cnnjax.apply, static_argnames=("arch", "train"))
KEY = jax.random.key(0)
IMAGES = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
SMALL = {"depths": (1, 2), "width": 8, "num_classes": 5, "input_size": 32}


def shapes(name, size, **options):
    arch = create(name, **options)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    stages = jax.eval_shape(lambda v, x: features(arch, v, x), abstract_variables(arch), images)
    return {stage: activation.shape[1:] for stage, activation in stages.items()}


def test_stages_match_the_paper_s_table():
    assert shapes("resnet50", (224, 224)) == {
        "stem": (56, 56, 64), "stage1": (56, 56, 256), "stage2": (28, 28, 512), "stage3": (14, 14, 1024),
        "stage4": (7, 7, 2048),
    }  # fmt: skip
    assert shapes("resnet20_cifar", (32, 32)) == {
        "stem": (32, 32, 16), "stage1": (32, 32, 16), "stage2": (16, 16, 32), "stage3": (8, 8, 64),
    }  # fmt: skip


def test_v2_halves_the_size_in_the_last_block_of_each_stage():
    assert shapes("resnet50_v2", (224, 224)) == {
        "stem": (56, 56, 64), "stage1": (28, 28, 256), "stage2": (14, 14, 512), "stage3": (7, 7, 1024),
        "stage4": (7, 7, 2048),
    }  # fmt: skip


def test_any_input_size_is_accepted():
    assert shapes("resnet18", (97, 160))["stage4"] == (4, 5, 512)


@pytest.mark.parametrize(
    "name",
    ["resnet18", *(pytest.param(name, marks=pytest.mark.compiles_large) for name in ("resnet50", "resnet50_v1"))],
)
def test_with_zero_init_each_block_is_the_identity_before_its_activation(name):
    # With a stem that does not pool, a stage without projections returns its input.
    arch = create(name, depths=(3,), width=16, block="basic", stem="cifar", zero_init_residual=True, input_size=32)
    variables = init(arch, KEY)
    stages = jax.jit(features, static_argnums=0)(arch, variables, IMAGES)
    np.testing.assert_array_equal(stages["stage1"], stages["stem"])

    def loss(params):
        logits = cnnjax.apply(arch, variables._replace(params=params), IMAGES, train=True, key=KEY)[0].logits
        return jax.nn.logsumexp(logits, axis=-1).mean() - logits[:, 0].mean()

    grads = leaves_by_path(jax.jit(jax.grad(loss))(variables.params))
    assert all(np.isfinite(grad).all() for grad in grads.values())
    for block in range(3):
        assert np.abs(grads[f"stage1/{block}/norm2/scale"]).max() > 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.compiles_large)
        for name in ("resnet18", "resnet50", "resnet50_v1", "resnext50_32x4d", "resnet20_cifar")
    ],
)
def test_with_zero_init_gradients_are_finite_and_reach_every_channel_of_each_last_norm(name):
    arch = create(name, **{**SMALL, "group_width": 8 if "next" in name else 64}, zero_init_residual=True)
    variables = init(arch, KEY)

    def loss(params):
        logits = cnnjax.apply(arch, variables._replace(params=params), IMAGES, train=True, key=KEY)[0].logits
        return jax.nn.logsumexp(logits, axis=-1).mean() - logits[:, 0].mean()

    grads = leaves_by_path(jax.jit(jax.grad(loss))(variables.params))
    assert all(np.isfinite(grad).all() for grad in grads.values())
    last = 2 if arch.block == "basic" else 3
    for block in ("stage1/0", "stage2/0", "stage2/1"):
        assert np.all(grads[f"{block}/norm{last}/scale"] != 0)


def test_with_zero_init_blocks_that_pad_channels_keep_their_scale():
    """With scale 0, their new channels would be 0 for every image, and would get no gradient through ReLU."""
    params = leaves_by_path(init(create("resnet20_cifar", **SMALL, zero_init_residual=True), KEY).params)
    scales = {path[:8]: leaf for path, leaf in params.items() if path.endswith("norm2/scale")}
    assert {block: bool(np.asarray(scale).any()) for block, scale in scales.items()} == {
        "stage1/0": False, "stage2/0": True, "stage2/1": False,
    }  # fmt: skip


@pytest.mark.compiles_large
def test_zero_init_zeroes_only_the_last_norm_of_each_block():
    params = leaves_by_path(init(create("resnet50", **SMALL, zero_init_residual=True), KEY).params)
    zero = {path for path, leaf in params.items() if path.endswith("scale") and not np.asarray(leaf).any()}
    assert zero == {"stage1/0/norm3/scale", "stage2/0/norm3/scale", "stage2/1/norm3/scale"}


@pytest.mark.compiles_large
def test_option_a_pads_a_quarter_of_the_channels_before_and_after():
    arch = create("resnet20_cifar", depths=(1, 1), width=8, activation="identity")
    variables = init(arch, KEY)
    params = jax.tree.map(jnp.array, variables.params)
    for block in ("stage1", "stage2"):
        params[block]["0"]["norm2"]["scale"] = jnp.zeros_like(params[block]["0"]["norm2"]["scale"])
    stages = jax.jit(features, static_argnums=0)(arch, variables._replace(params=params), IMAGES)
    expected = np.pad(stages["stage1"][:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (4, 4)))
    np.testing.assert_allclose(stages["stage2"], expected, rtol=1e-6)


def test_a_plain_network_has_no_shortcuts():
    arch = create("plain20_cifar", depths=(1,), width=8)
    variables = init(arch, KEY)
    params = jax.tree.map(jnp.array, variables.params)
    params["stage1"]["0"]["norm2"]["scale"] = jnp.zeros(8)
    stages = jax.jit(features, static_argnums=0)(arch, variables._replace(params=params), IMAGES)
    assert not np.asarray(stages["stage1"]).any()


@pytest.mark.parametrize("unbiased", [True, False])
def test_running_statistics_equal_numpy(unbiased):
    arch = create(
        "resnet18", **{**SMALL, "depths": (1,), "stem": "cifar", "unbiased_variance": unbiased, "momentum": 0.7}
    )
    variables = init(arch, KEY)
    _, stats = apply(arch, variables, IMAGES, train=True, key=KEY)
    kernel = variables.params["stem"]["conv"]["kernel"]
    convolved = jax.lax.conv_general_dilated(
        IMAGES, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    values = np.asarray(convolved, np.float64).reshape(-1, 8)
    np.testing.assert_allclose(stats["stem"]["norm"]["mean"], 0.3 * values.mean(0), rtol=1e-3, atol=1e-6)
    expected = 0.7 + 0.3 * values.var(0, ddof=1 if unbiased else 0)
    np.testing.assert_allclose(stats["stem"]["norm"]["var"], expected, rtol=1e-5)


@pytest.mark.compiles_large
def test_stochastic_depth_drops_images_only_in_training():
    arch = create("resnet18", **SMALL, stochastic_depth=0.9)
    variables = init(arch, KEY)
    still = [apply(arch, variables, IMAGES)[0].logits for _ in range(2)]
    assert np.array_equal(*still)
    drawn = [apply(arch, variables, IMAGES, train=True, key=jax.random.key(seed))[0].logits for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    with pytest.raises(UserError, match="stochastic depth has no PRNG key in training"):
        cnnjax.apply(arch, variables, IMAGES, train=True)


@pytest.mark.compiles_large
def test_without_classes_the_output_is_the_pooled_embedding():
    arch = create("resnet18", **{**SMALL, "num_classes": 0})
    variables = init(arch, KEY)
    assert "head" not in variables.params
    stages = jax.jit(features, static_argnums=0)(arch, variables, IMAGES)
    embedding = apply(arch, variables, IMAGES)[0].logits
    np.testing.assert_allclose(embedding, stages["stage2"].mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.compiles_large
def test_max_pooling_with_zero_padding():
    x = -1.0 - jax.random.uniform(KEY, (1, 5, 5, 2))
    assert max_pool(x, size=3, stride=2, padding=1).max() < 0
    zero_padded = max_pool(x, size=3, stride=2, padding=1, pad_value=0.0)
    assert zero_padded.shape == (1, 3, 3, 2)
    assert (np.asarray(zero_padded[0, 0]) == 0).all()
    assert (np.asarray(zero_padded[0, 1, 1]) < 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": ()}, "model.depths"),
        ({"depths": (2, 0)}, "model.depths"),
        ({"stochastic_depth": 1.0}, "model.stochastic_depth is 1.0"),
        ({"groups": 0}, "model.groups is 0"),
        ({"momentum": 1.5}, "model.momentum is 1.5"),
        ({"epsilon": 0.0}, "model.epsilon is 0.0"),
        ({"form": "v2", "zero_init_residual": True}, "model.form is 'v2'"),
        ({"form": "v2", "block": "basic"}, "model.form is 'v2'"),
        ({"shortcut": "none", "zero_init_residual": True}, "model.zero_init_residual is True; it needs shortcut"),
        ({"form": "v3"}, "unknown form 'v3'"),
        ({"block": "basic", "groups": 2}, "model.groups is 2"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError) as error:
        create("resnet50", **options)
    assert str(error.value).startswith(message)
