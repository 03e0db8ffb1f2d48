import jax
import numpy as np
import pytest
from conftest import mostly_slow
from safetensors.numpy import save_file

from cnnjax import create, init
from cnnjax.convert import load_weights, save_weights, source_of
from cnnjax.convert.resnet import sources
from cnnjax.convert.rules import OI, OIHW, SAME, Rule, from_variables, to_variables
from cnnjax.convert.tensors import Shape, Tensors
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables, leaves_by_path
from cnnjax.models.resnet import VARIANTS
from tests.convert.published import KERAS_V2, TORCH, tensors_of
from tests.forms import mark_deep, mark_deep_ones

CASES = [(name, source) for name, arch in VARIANTS.items() for source in sources(arch)]


def opened(tensors, path="weights"):
    """Return tensors in the form that an open weight file has."""
    return Tensors(path, {name: Shape(x.shape, str(x.dtype)) for name, x in tensors.items()}, tensors.__getitem__)


@pytest.fixture
def torch_tensors():
    return tensors_of(TORCH, "torchvision")


def same_bits(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.mark.parametrize(("name", "source"), [mark_deep(*case) for case in CASES])
def test_every_parameter_has_a_unique_published_name(name, source):
    table = source_of(create(name), source).table
    leaves = [path for tree in abstract_variables(create(name)) for path in leaves_by_path(tree)]
    assert len({table.find(path)[0] for path in leaves}) == len(leaves)


def test_every_published_variant_has_a_source():
    assert {name for name, _ in CASES} == {name for name, arch in VARIANTS.items() if arch.shortcut != "none"}


def test_a_rule_can_shift_layer_indices():
    rule = Rule("conv{s+1}_block{b+1}_{i-1}_bn/gamma", "stage{s}/{b}/norm{i}/scale", SAME)
    assert rule.source_name("stage3/11/norm2/scale") == "conv4_block12_1_bn/gamma"
    assert rule.source_name("stage3/11/norm2/scale2") is None
    assert rule.source_name("xstage3/11/norm2/scale") is None


@pytest.mark.parametrize(("layout", "shape"), [(SAME, (3,)), (OI, (5, 7)), (OIHW, (5, 7, 2, 3))])
def test_layouts_are_inverted_exactly(layout, shape):
    theirs = np.random.default_rng(0).normal(size=shape)
    assert np.array_equal(layout.to_theirs(layout.to_ours(theirs)), theirs)
    assert layout.to_ours(theirs).shape == {1: (3,), 2: (7, 5), 4: (2, 3, 7, 5)}[len(shape)]


def test_kernels_are_transposed(torch_tensors):
    variables = to_variables(source_of(TORCH, "torchvision").table, TORCH, opened(torch_tensors))
    kernel = variables.params["stage2"]["0"]["shortcut"]["conv"]["kernel"]
    assert kernel[0, 0, 3, 5] == torch_tensors["layer2.0.downsample.0.weight"][5, 3, 0, 0]
    assert variables.params["head"]["kernel"][3, 2] == torch_tensors["fc.weight"][2, 3]
    assert np.array_equal(variables.batch_stats["stem"]["norm"]["var"], torch_tensors["bn1.running_var"])


@pytest.mark.parametrize(
    ("arch", "source"), mostly_slow([(TORCH, "torchvision"), (KERAS_V2, "keras"), (TORCH, "timm")], 2)
)
def test_a_round_trip_is_bit_exact(arch, source):
    table, variables = source_of(arch, source).table, init(arch, jax.random.key(3))
    assert same_bits(to_variables(table, arch, opened(from_variables(table, variables))), jax.device_get(variables))


def test_a_float64_network_gets_float64_parameters(torch_tensors):
    table = source_of(TORCH, "torchvision").table
    with jax.enable_x64(True):
        wide = to_variables(table, TORCH.replace(dtype="float64"), opened(torch_tensors))
    narrow = to_variables(table, TORCH, opened(torch_tensors))
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {np.dtype(np.float64)}
    assert same_bits(wide, narrow)  # both have the values in the file


def test_pre_activation_norms_precede_their_convolutions():
    table = source_of(KERAS_V2, "keras").table
    names = {path: table.find(path)[0] for path in leaves_by_path(abstract_variables(KERAS_V2).params)}
    assert names["stage1/0/norm1/scale"] == "conv2_block1_preact_bn/gamma"
    assert names["stage2/1/norm3/bias"] == "conv3_block2_2_bn/beta"
    assert names["norm/scale"] == "post_bn/gamma"


def published_cifar(depth: int) -> dict[str, np.ndarray]:
    """Return tensors with the names and shapes of a published CIFAR network, in state dict order."""
    rng, n = np.random.default_rng(depth), (depth - 2) // 6
    tensors: dict[str, np.ndarray] = {}

    def add(name, *shape):
        tensors[f"module.{name}"] = rng.uniform(0.5, 1.5, size=shape).astype(np.float32)

    def add_norm(name, width):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            add(f"{name}.{leaf}", width)

    add("conv1.weight", 16, 3, 3, 3)
    add_norm("bn1", 16)
    inputs = 16
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for block in range(n):
            for layer in (1, 2):
                add(f"layer{stage}.{block}.conv{layer}.weight", width, inputs, 3, 3)
                add_norm(f"layer{stage}.{block}.bn{layer}", width)
                inputs = width
    add("linear.weight", 10, 64)
    add("linear.bias", 10)
    return tensors


@pytest.mark.parametrize("name", mark_deep_ones(f"resnet{depth}_cifar" for depth in (20, 32, 44, 56, 110)))
def test_the_published_cifar_networks_are_converted(name, tmp_path):
    depth = 6 * create(name).depths[0] + 2
    arch, tensors = create(name), published_cifar(depth)
    save_file(tensors, tmp_path / "weights.safetensors")
    variables = load_weights(arch, "cifar", tmp_path / "weights.safetensors")
    save_weights(arch, variables, "cifar", tmp_path / "back.safetensors")
    assert same_bits(load_weights(arch, "cifar", tmp_path / "back.safetensors"), variables)
    n = (depth - 2) // 6
    kernel = variables.params["stage3"][str(n - 1)]["conv2"]["kernel"]
    assert np.array_equal(kernel, tensors[f"module.layer3.{n - 1}.conv2.weight"].transpose(2, 3, 1, 0))


class TestStrictness:
    def refused(self, tensors) -> str:
        with pytest.raises(UserError) as error:
            to_variables(source_of(TORCH, "torchvision").table, TORCH, opened(tensors))
        return str(error.value)

    def test_missing_unused_and_mismatched_tensors_are_listed_with_both_names(self, torch_tensors):
        torch_tensors["bn2.weight"] = torch_tensors.pop("bn1.weight")
        torch_tensors["fc.bias"] = np.zeros(6, np.float32)
        message = self.refused(torch_tensors)
        assert "missing (1): bn1.weight [8] (our stem/norm/scale)" in message
        assert "unexpected (1): bn2.weight [8]" in message
        assert "of the wrong shape or type (1): fc.bias is [6] instead of [5] (our head/bias)" in message

    def test_missing_tensors_are_counted_and_the_first_ones_named(self, torch_tensors):
        gone = [name for name in torch_tensors if name.startswith("layer2.")]
        message = self.refused({name: x for name, x in torch_tensors.items() if name not in gone})
        assert f"missing ({len(gone)})" in message
        assert sum(name in message for name in gone) == 3

    def test_tensors_that_the_table_ignores_are_allowed(self, torch_tensors):
        torch_tensors["bn1.num_batches_tracked"] = np.array(3)
        to_variables(source_of(TORCH, "torchvision").table, TORCH, opened(torch_tensors))
        torch_tensors["num_batches"] = np.array(3)
        assert "unexpected (1): num_batches []" in self.refused(torch_tensors)

    def test_a_wrong_shape_is_refused_before_reading(self, torch_tensors):
        read = []
        shapes = {name: Shape(x.shape, "float32") for name, x in torch_tensors.items()}
        shapes["fc.weight"] = Shape((10**6, 10**6), "float32")
        with pytest.raises(UserError, match="fc.weight is"):
            to_variables(source_of(TORCH, "torchvision").table, TORCH, Tensors("weights", shapes, read.append))
        assert not read

    @pytest.mark.parametrize("dtype", ["int64", "complex64"])
    def test_other_dtypes_are_refused(self, torch_tensors, dtype):
        torch_tensors["fc.bias"] = torch_tensors["fc.bias"].astype(dtype)
        assert f"fc.bias is {dtype} instead of a float type" in self.refused(torch_tensors)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_not_finite_are_refused(self, torch_tensors, value):
        torch_tensors["bn1.running_var"] = np.full(8, value, np.float32)
        assert "NaN or infinite values, in bn1.running_var" in self.refused(torch_tensors)

    def test_a_negative_variance_is_refused(self, torch_tensors):
        torch_tensors["bn1.running_var"] = np.full(8, -1, np.float32)
        assert "negative variances, in bn1.running_var" in self.refused(torch_tensors)

    def test_only_the_first_three_unknown_names_are_listed(self, torch_tensors):
        message = self.refused({**torch_tensors, **{f"x{n}" + "y" * 500: np.zeros(1) for n in range(5000)}})
        assert "unexpected (5000)" in message
        assert "and 4,997 more" in message
        assert len(message) < 200_000

    def test_without_classes_the_head_is_ignored(self, torch_tensors):
        arch = TORCH.replace(num_classes=0)
        variables = to_variables(source_of(arch, "torchvision").table, arch, opened(torch_tensors))
        assert "head" not in variables.params

    def test_an_unrelated_file_is_refused_with_a_short_message(self):
        message = self.refused(tensors_of(KERAS_V2, "keras"))
        assert "has none of the" in message
        assert len(message) < 400

    def test_half_precision_is_converted_to_float32(self, torch_tensors):
        torch_tensors["fc.bias"] = torch_tensors["fc.bias"].astype(np.float16)
        variables = to_variables(source_of(TORCH, "torchvision").table, TORCH, opened(torch_tensors))
        assert variables.params["head"]["bias"].dtype == np.float32


@pytest.mark.parametrize(
    ("name", "options", "source", "message"),
    [
        ("resnet18", {}, "torchvison", "unknown source 'torchvison'; did you mean 'torchvision'?"),
        ("resnet50_v1", {}, "torchvision", "unknown source 'torchvision'; choose from: keras"),
        ("lenet", {}, "torchvision", "published weights of the family 'lenet' cannot be converted; choose from: "),
        ("plain20_cifar", {}, "cifar", "there are no published weights for this form of 'resnet'; "),
        ("resnet18", {"shortcut": "padding"}, "timm", "there are no published weights for this form of 'resnet'; "),
    ],
)
def test_unknown_sources_are_refused(name, options, source, message):
    with pytest.raises(UserError) as error:
        source_of(create(name, **options), source)
    assert str(error.value).startswith(message)


def test_only_state_dicts_can_be_written(tmp_path):
    with pytest.raises(UserError, match="weights cannot be written for keras"):
        save_weights(KERAS_V2, init(KERAS_V2, jax.random.key(0)), "keras", tmp_path / "x.safetensors")
    wide = TORCH.replace(dtype="float64")
    with (
        jax.enable_x64(True),
        pytest.raises(UserError, match="cannot be written: model.dtype is 'float64'; it must be 'float32'"),
    ):
        save_weights(wide, init(wide, jax.random.key(0)), "torchvision", tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
