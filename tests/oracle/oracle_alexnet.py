"""AlexNet as commonly taught, with random weights, compared with a Keras Sequential."""

import jax
import numpy as np
from keras_peer import keras, relaxed

import cnnjax
from cnnjax import Variables
from cnnjax.functional import abstract_variables, leaves_by_path


def taught_alexnet(side, channels, classes, filters, hidden):
    """Return AlexNet as commonly taught (alexnet_bn), as a Keras Sequential without dropout."""
    layers = keras.layers
    return keras.Sequential([
        layers.Input((28, 28, channels)), layers.Resizing(side, side),
        layers.Conv2D(filters[0], 11, 4, activation="relu"), layers.BatchNormalization(), layers.MaxPool2D(3, 2),
        layers.Conv2D(filters[1], 5, padding="same", activation="relu"), layers.BatchNormalization(),
        layers.MaxPool2D(3, 2),
        layers.Conv2D(filters[2], 3, padding="same", activation="relu"), layers.BatchNormalization(),
        layers.Conv2D(filters[3], 3, padding="same", activation="relu"), layers.BatchNormalization(),
        layers.Conv2D(filters[4], 3, padding="same", activation="relu"), layers.BatchNormalization(),
        layers.MaxPool2D(3, 2), layers.Flatten(),
        layers.Dense(hidden, activation="relu"), layers.Dense(hidden, activation="relu"), layers.Dense(classes),
    ])  # fmt: skip


def test_alexnet_bn_equals_the_same_network_in_keras():
    arch = cnnjax.create("alexnet_bn", width=24, input_size=28, resize=227, channels=1, num_classes=10)
    with relaxed():
        keras.utils.set_random_seed(0)
        net = taught_alexnet(227, 1, 10, (24, 64, 96, 96, 64), 1024)
        rng = np.random.default_rng(0)
        for layer in net.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                mean = rng.normal(0.2, 0.1, layer.moving_mean.shape)
                layer.set_weights([rng.uniform(0.5, 1.5, mean.shape), rng.normal(0, 0.2, mean.shape), mean,
                                   rng.uniform(0.05, 0.3, mean.shape)])  # fmt: skip
        images = rng.normal(size=(3, 28, 28, 1)).astype(np.float32)
        expected = np.asarray(net(images, training=False))
    convs = [layer for layer in net.layers if isinstance(layer, keras.layers.Conv2D)]
    norms = [layer for layer in net.layers if isinstance(layer, keras.layers.BatchNormalization)]
    dense = [layer for layer in net.layers if isinstance(layer, keras.layers.Dense)]
    params, statistics = {}, {}
    for number, (conv, norm) in enumerate(zip(convs, norms, strict=True), 1):
        gamma, beta, mean, var = norm.get_weights()
        kernel, bias = conv.get_weights()
        params[f"stage{number}"] = {"conv": {"kernel": kernel, "bias": bias}, "norm": {"scale": gamma, "bias": beta}}
        statistics[f"stage{number}"] = {"norm": {"mean": mean, "var": var}}
    for name, layer in zip(("dense1", "dense2", "head"), dense, strict=True):
        params[name] = dict(zip(("kernel", "bias"), layer.get_weights(), strict=True))
    variables = Variables(params, statistics)
    shapes = [{path: leaf.shape for path, leaf in leaves_by_path(tree).items()} for tree in abstract_variables(arch)]
    assert [{path: leaf.shape for path, leaf in leaves_by_path(tree).items()} for tree in variables] == shapes
    ours = np.asarray(jax.jit(cnnjax.apply, static_argnums=0)(arch, variables, images)[0].logits)
    assert np.std(expected) > 1e-3
    assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()
