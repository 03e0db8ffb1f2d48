import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import create, init
from cnnjax.complexity import complexity
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables
from cnnjax.models.lenet_1998 import codes

KEY = jax.random.key(0)
PAPER = {  # parameters and connections, section II.B of the paper
    "c1": (156, 122_304),
    "s2": (12, 5_880),
    "c3": (1_516, 151_600),
    "s4": (32, 2_000),
    "c5": (48_120, 48_120),
    "f6": (10_164, 10_164),
    "output": (0, 840),
}
SEEN = (  # table I of the paper, column by column
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1), (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5),
    (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2), (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)  # fmt: skip

apply = jax.jit(cnnjax.apply, static_argnames=("arch", "train"))


def connections(layer) -> int:
    """Count the inputs of every unit, and its bias."""
    if layer.kind == "RadialBasis":
        return layer.multiply_adds  # without biases
    inputs = 4 * layer.activations if layer.kind == "Subsampling" else layer.multiply_adds
    return inputs + layer.activations


def test_parameters_and_connections_are_the_published_ones():
    layers = [layer for layer in complexity(create("lenet_1998")).layers if layer.kind != "Flatten"]
    assert {layer.name: (layer.parameters, connections(layer)) for layer in layers} == PAPER
    assert sum(map(connections, layers)) == 340_908
    assert sum(layer.parameters for layer in layers) == 60_000


def test_forward_pass_equals_float64_numpy():
    arch = create("lenet_1998")
    params, _ = variables = init(arch, KEY)
    images = np.asarray(jax.random.normal(jax.random.key(2), (2, 32, 32, 1)))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def squash(x):
        return 1.7159 * np.tanh(2 * x / 3)

    def conv(x, kernel, bias):  # kernel [5, 5, inputs, outputs]
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(1, 2))
        return np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias

    def subsample(x, layer):
        total = x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
        return squash(total * layer["coefficient"] + layer["bias"])

    whole = np.zeros((5, 5, 6, 16))
    pairs = sorted((seen, column) for column, row in enumerate(SEEN) for seen in row)
    for number, (seen, column) in enumerate(pairs):
        whole[:, :, seen, column] = p["c3"]["kernel"][:, :, number]
    x = subsample(squash(conv(images.astype(np.float64), **p["c1"])), p["s2"])
    x = subsample(squash(conv(x, whole, p["c3"]["bias"])), p["s4"])
    x = squash(conv(x, **p["c5"]))[:, 0, 0]
    x = squash(x @ p["f6"]["kernel"] + p["f6"]["bias"])
    distances = ((x[:, None] - codes()[None]) ** 2).sum(-1)
    np.testing.assert_allclose(apply(arch, variables, images)[0].logits, -distances, rtol=1e-5)


def test_the_squashing_function_keeps_plus_and_minus_one():
    np.testing.assert_allclose(1.7159 * np.tanh(2 / 3 * np.array([1, -1])), [1, -1], atol=1e-4)


def test_initial_weights_are_within_the_range_of_their_units():
    params, _ = init(create("lenet_1998"), KEY)
    limits = {"c1": 2.4 / 25, "c5": 2.4 / 400, "f6": 2.4 / 120}
    for name, limit in limits.items():
        assert 0.9 * limit < np.abs(params[name]["kernel"]).max() <= limit
    pairs = sorted((seen, column) for column, row in enumerate(SEEN) for seen in row)
    sizes = np.array([len(SEEN[column]) for _, column in pairs])
    for size in (3, 4, 6):
        largest = np.abs(params["c3"]["kernel"][:, :, sizes == size]).max()
        assert 0.9 < largest / (2.4 / (25 * size)) < 1.00001


def test_codes_are_distinct_bitmaps_of_84_values():
    assert codes().shape == (10, 84)
    assert set(codes().ravel()) == {-1.0, 1.0}
    different = (codes()[:, None] != codes()[None]).sum(-1)
    assert different[~np.eye(10, dtype=bool)].min() >= 12


def test_padding_makes_digits_of_28_pixels_the_paper_s_32():
    arch = create("lenet_1998")
    variables = init(arch, KEY)
    images = jax.random.normal(jax.random.key(1), (2, 28, 28, 1))
    whole = apply(arch, variables, jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0))))[0].logits
    small = apply(arch.replace(input_size=28, pad=2), variables, images)[0].logits
    np.testing.assert_allclose(small, whole, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "shape"), [({"output": "linear", "num_classes": 1000}, 1000), ({"num_classes": 0}, 84)]
)
def test_other_outputs(options, shape):
    arch = create("lenet_1998", **options)
    images = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)
    logits = jax.eval_shape(lambda v, x: apply(arch, v, x)[0].logits, abstract_variables(arch), images)
    assert logits.shape == (2, shape)


@pytest.mark.parametrize("size", [31, 36])
def test_other_sizes_are_refused_with_the_sizes_that_fit(size):
    arch = create("lenet_1998")
    images = jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32)
    with pytest.raises(UserError, match="input sizes that fit: 32 to 35"):
        jax.eval_shape(lambda v, x: apply(arch, v, x), abstract_variables(arch), images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 11}, "model.num_classes is 11; output 'rbf' has codes for 10 classes"),
        ({"input_size": 15}, "model.input_size is 15 with pad 0; the padded image must have 16 pixels or more"),
        ({"pad": 5}, "model.pad is 5; it must be at most 4"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError) as error:
        create("lenet_1998", **options)
    assert str(error.value).startswith(message)
