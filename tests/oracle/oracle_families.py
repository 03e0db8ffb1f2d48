"""AlexNet, VGG, GoogLeNet and RegNet with random weights, compared with torchvision, timm and Keras."""

import jax
import keras
import numpy as np
import pytest
import torch
from peers import KerasPeer, nchw, perturbed, random_images, relaxed
from safetensors.torch import load_file, save_file

import cnnjax
from cnnjax import Variables
from cnnjax.convert import load_weights, save_weights
from cnnjax.functional import abstract_variables, layer_calls, leaves_by_path

from peers import timm, torchvision  # isort: skip

CASES = [
    ("alexnet", "torchvision", {}, ((224, 224), (96, 131))),
    ("vgg11", "torchvision", {}, ((64, 96), (75, 75))),
    ("vgg11_bn", "timm", {}, ((224, 224),)),  # at other sizes, timm slides its first dense layer over the map
    ("googlenet", "torchvision", {}, ((64, 96), (75, 75))),
    ("googlenet", "torchvision", {"aux_heads": True}, ((224, 224),)),
    ("regnet_x_400mf", "torchvision", {}, ((64, 96), (75, 75))),
    ("regnet_y_400mf", "torchvision", {}, ((64, 96), (75, 75))),
    ("regnet_x_400mf_pycls", "timm", {}, ((64, 96), (75, 75))),
    ("regnet_y_800mf_pycls", "timm", {}, ((64, 96), (75, 75))),
]
TIMM = {"regnet_x_400mf_pycls": "regnetx_004", "regnet_y_800mf_pycls": "regnety_008"}
apply = jax.jit(cnnjax.apply, static_argnames=("arch", "train"))


def make_peer(name, source, aux_heads=False):
    """Return a torch network with random statistics, and convolutions and biases unlike their initial values."""
    torch.manual_seed(0)
    if source == "timm":
        net = timm.create_model(TIMM.get(name, name))
    else:
        options = {"aux_logits": aux_heads, "init_weights": True} if name == "googlenet" else {}
        net = torchvision.models.get_model(name, **options)
    rng = np.random.default_rng(0)
    norms = [layer for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                fan_in = layer.weight[0].numel()
                layer.weight.copy_(torch.from_numpy(rng.normal(0, (2 / fan_in) ** 0.5, layer.weight.shape)))
                if layer.bias is not None:
                    layer.bias.copy_(torch.from_numpy(rng.normal(0, 0.1, layer.bias.shape)))
        for norm in norms:
            norm.weight.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, norm.weight.shape)))
            norm.bias.copy_(torch.from_numpy(rng.normal(0, 0.2, norm.bias.shape)))
            norm.momentum = 1.0
        if norms:
            net.train()(nchw(random_images(224, 224, seed=1)))
        for norm in norms:
            norm.momentum = 0.1
            mean, var = perturbed(rng, norm.running_mean.numpy(), norm.running_var.numpy())
            norm.running_mean.copy_(torch.from_numpy(mean))
            norm.running_var.copy_(torch.from_numpy(var))
    return net.eval()


def close(ours, theirs, bound=1e-4):
    assert np.std(theirs) > 1e-3
    assert np.abs(np.asarray(ours) - theirs).max() < bound * np.abs(theirs).max()


@pytest.mark.parametrize(("name", "source", "options", "sizes"), CASES)
def test_logits_equal_those_of_torch_and_a_round_trip_is_exact(name, source, options, sizes, tmp_path):
    peer, arch = make_peer(name, source, **options), cnnjax.create(name, **options)
    tensors = {key: value.clone() for key, value in peer.state_dict().items()}
    save_file(tensors, tmp_path / "peer.safetensors")
    variables = load_weights(arch, source, tmp_path / "peer.safetensors")
    for size in sizes:
        images = random_images(*size, seed=0)
        with torch.no_grad():
            expected = peer(nchw(images)).numpy()
        close(apply(arch, variables, images)[0].logits, expected)
    save_weights(arch, variables, source, tmp_path / "back.safetensors")
    written = load_file(tmp_path / "back.safetensors")
    original = {key: value for key, value in tensors.items() if "num_batches" not in key}
    assert written.keys() == original.keys()
    assert all(torch.equal(written[key], original[key]) for key in written)


def test_auxiliary_logits_equal_torchvisions_in_training(tmp_path):
    peer, arch = make_peer("googlenet", "torchvision", aux_heads=True), cnnjax.create("googlenet", aux_heads=True)
    save_file(dict(peer.state_dict()), tmp_path / "peer.safetensors")
    variables = load_weights(arch, "torchvision", tmp_path / "peer.safetensors")
    images = random_images(224, 224, seed=0)
    captured = {}
    for name in ("aux1", "aux2"):
        getattr(peer, name).register_forward_hook(lambda _, __, out, name=name: captured.update({name: out}))
    peer.train()
    for layer in peer.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.eval()
    with torch.no_grad():
        logits = peer(nchw(images)).logits.numpy()
    quiet = arch.replace(dropout=0.0)
    ours = evaluated_with_batch_statistics(quiet, variables, images)
    close(ours.logits, logits, 1e-3)
    for logits, name in zip(ours.aux, ("aux1", "aux2"), strict=True):
        close(logits, captured[name].numpy(), 1e-3)


def evaluated_with_batch_statistics(arch, variables, images):
    """Return the outputs in evaluation mode with the statistics of this batch, so that dropout is off."""
    moved = arch.replace(momentum=0.0)
    _, statistics = apply(moved, variables, images, train=True, key=jax.random.key(0))
    biased = apply_bias_correction(arch, statistics, images)
    return apply(arch, Variables(variables.params, biased), images)[0]


def apply_bias_correction(arch, statistics, images):
    """Return running variances as a training batch uses them: divided by the count instead of count - 1."""
    maps = {}
    for call in layer_calls(arch, images.shape[1:]):
        if call.kind == "BatchNorm":
            maps[call.name] = images.shape[0] * int(np.prod(call.output_shape[:-1]))

    def corrected(path, leaf):
        names = [str(entry.key) for entry in path]
        if names[-1] != "var":
            return leaf
        count = maps["/".join(names[:-1])]
        return leaf * ((count - 1) / count)

    return jax.tree_util.tree_map_with_path(corrected, statistics)


@pytest.mark.parametrize("kind", [".h5", ".keras"])
def test_vgg16_equals_keras(kind, tmp_path):
    keras.backend.clear_session()
    peer, arch = KerasPeer("VGG16", size=(224, 224)), cnnjax.create("vgg16")
    variables = load_weights(arch, "keras", peer.save(tmp_path, kind))
    images = random_images(224, 224, seed=0)
    with relaxed():
        expected = np.asarray(peer.net((224, 224))(images, training=False))
    close(apply(arch, variables, images)[0].logits, expected)


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
    close(apply(arch, variables, images)[0].logits, expected)
