"""Properties that every variant must have."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow

import cnnjax
from cnnjax import Variables, create, features, init, list_models, models
from cnnjax.config import Experiment, Train
from cnnjax.data import Preprocessing
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables, leaves_by_path, stages
from cnnjax.losses import Batch
from cnnjax.models.layers import Activation, activation
from cnnjax.models.regnet import AnyNet
from cnnjax.optim import make_hyperparameters
from cnnjax.training.state import init_state
from cnnjax.training.step import make_train_step
from tests.forms import mark_deep_ones

VARIANTS = list_models()
TINY = {"depths": (1, 2), "width": 8, "group_width": 32, "num_classes": 5, "input_size": 32}
REGNET = {
    "depth": 3, "w_0": 8, "w_a": 8.0, "w_m": 2.0, "group_width": 4, "stem_width": 8, "num_classes": 5, "input_size": 32,
}  # fmt: skip
SMALLEST = {  # a small network of each family and form, whose values are computed
    "lenet": create("lenet"),
    "lenet 1998": create("lenet_1998"),
    "mlp": create("mlp"),
    "resnet basic": create("resnet18", depths=(1, 1), width=8, num_classes=5, input_size=32),
    "resnet v1.5": create("resnet50", **TINY),
    "resnet v1": create("resnet50_v1", **TINY),
    "resnet v2": create("resnet50_v2", **TINY),
    "resnext": create("resnext50_32x4d", **{**TINY, "groups": 4}),
    "resnet cifar": create("resnet20_cifar", depths=(1, 1, 1), width=8),
    "resnet cifar B": create("resnet20_cifar", depths=(1, 1), width=8, shortcut="projection"),
    "plain cifar": create("plain20_cifar", depths=(1, 1), width=8),
    "alexnet": create("alexnet", width=8, num_classes=5, input_size=63),
    "alexnet bn": create("alexnet_bn", width=8, num_classes=5, input_size=28, resize=67),
    "alexnet lrn": create("alexnet_lrn", width=8, stem="cifar", num_classes=5, input_size=32),
    "vgg": create("vgg11", width=4, num_classes=5, input_size=32),
    "vgg bn": create("vgg11_bn", width=4, head="gap", num_classes=5, input_size=32),
    "googlenet": create("googlenet", width=8, stem="cifar", num_classes=5, input_size=32),
    "googlenet paper": create(  # without a norm, a ReLU layer of two channels may be dead at initialization
        "googlenet_paper", width=8, stem="cifar", num_classes=5, input_size=32, activation="gelu"
    ),
    "inception v3": create("inception_v3", aux_heads=False, width=4, stem="cifar", num_classes=5, input_size=16),
    "inception v3 keras": create("inception_v3_keras", width=2, stem="cifar", num_classes=5, input_size=16),
    "regnet x": create("regnet_x_400mf", **REGNET),
    "anynet": AnyNet(
        depths=(1, 2),
        widths=(16, 24),
        bottlenecks=(2, 1),
        group_widths=(4, 8),
        stem="cifar",
        stem_width=8,
        num_classes=5,
        input_size=32,
        channels=3,
    ),
    "regnet y": create("regnet_y_400mf", **REGNET, stem="cifar"),
    "xception": create("xception", middle_blocks=1, width=4, stem="cifar", num_classes=5, input_size=32),
    "speed": create("airbench94", width=4, num_classes=5, input_size=16),
}
QUICK = ("lenet", "mlp", "resnet cifar")
"""Networks that `make test` runs; `make test-all` runs all of them."""
KEY = jax.random.key(0)

apply = jax.jit(cnnjax.apply, static_argnames=("arch", "train"))  # without jit, each operation is compiled separately


def images_for(arch, count=3):
    return jax.random.normal(jax.random.key(1), (count, *arch.image_shape))


def loss(arch, params, batch_stats, images):
    outputs, _ = apply(arch, Variables(params, batch_stats), images, train=True, key=KEY)
    return jax.nn.logsumexp(outputs.logits, axis=-1).mean() - outputs.logits[:, 0].mean()


def test_every_family_has_a_small_network():
    assert {type(arch) for arch in SMALLEST.values()} == set(models.FAMILIES.values())


def test_models_are_listed_by_pattern():
    assert list_models("len*") == ["lenet", "lenet_1998"]
    assert list_models("zz*") == []


@pytest.mark.parametrize("name", mark_deep_ones(VARIANTS))
class TestEveryVariant:
    def test_round_trips_through_plain_data(self, name):
        arch = create(name)
        assert hash(arch) == hash(create(name))
        assert arch == create(name) != create(name, num_classes=3)
        assert models.from_dict(arch.to_dict()) == arch
        assert eval(repr(arch), {type(arch).__name__: type(arch)}) == arch

    def test_shapes(self, name):
        arch = create(name, num_classes=7)
        variables = abstract_variables(arch)
        images = jax.ShapeDtypeStruct((2, *arch.image_shape), jnp.float32)
        outputs, batch_stats = jax.eval_shape(lambda v, x: apply(arch, v, x), variables, images)
        assert outputs.logits.shape == (2, 7)
        assert outputs.logits.dtype == jnp.float32
        assert batch_stats == variables.batch_stats
        stages = jax.eval_shape(lambda v, x: features(arch, v, x), variables, images)
        assert stages
        assert all(activation.ndim == 4 and activation.shape[0] == 2 for activation in stages.values())

    @pytest.mark.compiles_large
    def test_parameters_stay_float32_in_bfloat16(self, name):
        leaves = jax.tree.leaves(abstract_variables(create(name, dtype="bfloat16")))
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}

    @pytest.mark.compiles_large
    def test_a_train_step_keeps_the_shapes_of_the_state(self, name):
        arch = create(name)
        experiment = Experiment(model=arch, train=Train(label_smoothing=0.1))
        values = make_hyperparameters(experiment, 10)
        channels = (0.5,) * arch.channels
        height, width, _ = arch.image_shape
        preprocessing = Preprocessing(height=height, width=width, mean=channels, std=channels)
        step = make_train_step(experiment, preprocessing)
        state = jax.eval_shape(lambda: init_state(experiment, values))
        images = jax.ShapeDtypeStruct((4, *arch.image_shape), jnp.uint8)
        batch = Batch(images, jax.ShapeDtypeStruct((4,), jnp.int32))
        after = jax.eval_shape(step, state, batch, KEY, values)
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), state
        )

    def test_wrong_channels_are_refused(self, name):
        arch = create(name)
        variables = abstract_variables(arch)
        height, width, channels = arch.image_shape
        images = jax.ShapeDtypeStruct((2, height, width, channels + 1), jnp.float32)
        with pytest.raises(UserError, match=rf"the network takes \[N, H, W, C\] with C = {channels}"):
            jax.eval_shape(lambda v, x: apply(arch, v, x), variables, images)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.compiles_large) for name in SMALLEST]
)
class TestValues:
    def test_every_parameter_gets_a_finite_gradient(self, name):
        arch = SMALLEST[name]
        params, batch_stats = init(arch, KEY)
        grads = jax.jit(jax.grad(lambda p: loss(arch, p, batch_stats, images_for(arch))))(params)
        for path, grad in leaves_by_path(grads).items():
            assert np.isfinite(grad).all(), path
            assert np.abs(grad).max() > 0, path

    def test_only_training_updates_the_statistics(self, name):
        arch = SMALLEST[name]
        variables = init(arch, KEY)
        _, after_eval = apply(arch, variables, images_for(arch))
        _, after_train = apply(arch, variables, images_for(arch), train=True, key=KEY)
        for path, before in leaves_by_path(variables.batch_stats).items():
            assert np.array_equal(leaves_by_path(after_eval)[path], before), path
            assert not np.array_equal(leaves_by_path(after_train)[path], before), path

    def test_the_caller_s_variables_are_not_changed(self, name):
        arch = SMALLEST[name]
        variables = init(arch, KEY)
        before = jax.tree.map(np.array, variables)
        apply(arch, variables, images_for(arch), train=True, key=KEY)
        assert jax.tree.all(jax.tree.map(np.array_equal, before, jax.tree.map(np.array, variables)))

    def test_bfloat16_is_close_to_float32(self, name):
        arch = SMALLEST[name]
        variables, images = init(arch, KEY), images_for(arch)
        exact = apply(arch, variables, images)[0].logits
        rough = apply(arch.replace(dtype="bfloat16"), variables, images)[0].logits
        assert rough.dtype == jnp.float32
        assert 0 < np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()

    def test_each_stage_can_be_recomputed(self, name):
        arch = SMALLEST[name]
        images = images_for(arch)

        def recomputed(remat):
            def run(variables):
                outputs, _ = cnnjax.apply(arch, variables, images, train=True, key=KEY, remat=remat)
                return outputs.logits.sum()

            program = jax.make_jaxpr(run)(abstract_variables(arch)).jaxpr
            return sum("prevent_cse" in equation.params for equation in program.eqns)

        assert recomputed(()) == 0
        assert [recomputed((stage,)) for stage in stages(arch)] == [1] * len(stages(arch))
        assert recomputed(("all",)) == len(stages(arch)) > 0

    def test_the_second_call_does_not_retrace(self, name):
        arch, traces = SMALLEST[name], []

        @jax.jit
        def run(variables, images):
            traces.append(1)
            return cnnjax.apply(arch, variables, images)[0].logits

        variables = init(arch, KEY)
        run(variables, images_for(arch))
        run(init(arch, jax.random.key(5)), images_for(arch) + 1.0)
        assert len(traces) == 1

    @pytest.mark.compiles_large
    def test_vmap_over_keys_makes_an_ensemble(self, name):
        arch, keys = SMALLEST[name], jax.random.split(KEY, 3)
        ensemble, images = jax.vmap(lambda key: init(arch, key))(keys), images_for(arch)
        together = jax.jit(jax.vmap(lambda v: apply(arch, v, images)[0].logits))(ensemble)
        for member, key in enumerate(keys):
            alone = apply(arch, init(arch, key), images)[0].logits
            np.testing.assert_allclose(together[member], alone, rtol=1e-4, atol=1e-5)

    def test_images_of_a_batch_do_not_affect_each_other(self, name):
        arch = SMALLEST[name]
        variables, images = init(arch, KEY), images_for(arch)
        whole = apply(arch, variables, images)[0].logits
        single = jnp.concatenate([apply(arch, variables, images[i : i + 1])[0].logits for i in range(3)])
        np.testing.assert_allclose(whole, single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", mostly_slow(["lenet", "mlp", "plain cifar"], 1)
)  # without jit, each operation is compiled separately
def test_jit_and_plain_calls_agree(name):
    arch = SMALLEST[name]
    variables, images = init(arch, KEY), images_for(arch)
    plain = cnnjax.apply(arch, variables, images)[0].logits
    jitted = apply(arch, variables, images)[0].logits
    np.testing.assert_allclose(plain, jitted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", mostly_slow(list(typing.get_args(Activation)), 3))
def test_every_activation_is_elementwise_and_has_a_gradient(name):
    arch = create("lenet", activation=name)
    images = jax.ShapeDtypeStruct((2, *arch.image_shape), jnp.float32)
    assert jax.eval_shape(lambda v, x: apply(arch, v, x), abstract_variables(arch), images)[0].logits.shape == (2, 10)
    x = jnp.linspace(-3, 3, 8)
    function = activation(name)
    np.testing.assert_allclose(function(x), jax.vmap(function)(x), rtol=1e-6)
    slopes = jax.vmap(jax.grad(function))(x)
    assert np.isfinite(slopes).all()
    assert np.abs(slopes).max() > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lenett", {}, "unknown model 'lenett'; did you mean 'lenet'"),
        ("lenet", {"activaton": "relu"}, "LeNet has no option 'activaton'; did you mean 'activation'"),
        ("lenet", {"activation": "rellu"}, "unknown activation 'rellu'; did you mean 'relu'"),
        ("lenet", {"pooling": "mx"}, "unknown pooling 'mx'; did you mean 'max'"),
        ("lenet", {"num_classes": -1}, "model.num_classes is -1; it must be 0 or more"),
        ("lenet", {"num_classes": 2.5}, "num_classes is 2.5; it must be a whole number"),
        ("lenet", {"input_size": 11}, "model.input_size is 11; it must be 12 or more"),
    ],
)
def test_create_refuses_invalid_options(name, options, message):
    with pytest.raises(UserError) as error:
        create(name, **options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("data", [None, {}, {"family": "lenett"}, {"family": "lenet", "poling": "avg"}, {"family": 3}])
def test_an_invalid_definition_is_refused(data):
    with pytest.raises(UserError):
        models.from_dict(data)
