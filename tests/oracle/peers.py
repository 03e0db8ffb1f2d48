"""Networks of other libraries with random weights and statistics, which ours are compared with.

The interface of every peer is numpy: images [N, H, W, C], and tensors by their names in published files.
"""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")

import h5py
import jax
import keras
import numpy as np
import torch
from safetensors.torch import save_file

from cnnjax.benchmark.torch_networks import import_torchvision

import_torchvision()
import timm  # noqa: E402
import torchvision  # noqa: E402


class Training(NamedTuple):
    """Results of a peer for one training batch: logits, new statistics, and gradients of the mean loss."""

    logits: np.ndarray
    statistics: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]


STAGES = {"stem": "maxpool", "stage1": "layer1", "stage2": "layer2", "stage3": "layer3", "stage4": "layer4"}
"""Our stages, and the corresponding modules of torch networks."""


class TorchPeer:
    """A network of torchvision or timm."""

    def __init__(self, source: str, name: str, seed: int = 0):
        torch.manual_seed(seed)
        make = timm.create_model if source == "timm" else torchvision.models.get_model
        self.source, self.net = source, make(name)
        norms = [layer for layer in self.net.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        rng = np.random.default_rng(seed)
        with torch.no_grad():
            for norm in norms:
                norm.weight.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, norm.weight.shape)))
                norm.bias.copy_(torch.from_numpy(rng.normal(0, 0.2, norm.bias.shape)))
                norm.momentum = 1.0
            self.net.train()(nchw(random_images(64, 96, seed=1)))
            for norm in norms:
                norm.momentum = 0.1
                mean, var = perturbed(rng, norm.running_mean.numpy(), norm.running_var.numpy())
                norm.running_mean.copy_(torch.from_numpy(mean))
                norm.running_var.copy_(torch.from_numpy(var))
        self.net.eval()

    def save(self, folder: Path, kind: str) -> Path:
        """Write the weights as ``.pth`` or ``.safetensors``."""
        path = folder / f"{self.source}{kind}"
        tensors = {key: tensor.clone() for key, tensor in self.net.state_dict().items()}
        torch.save(tensors, path) if kind == ".pth" else save_file(tensors, path)
        return path

    def load(self, tensors: dict[str, np.ndarray]) -> None:
        """Load a state dict, strictly."""
        self.net.load_state_dict({key: torch.from_numpy(array) for key, array in tensors.items()}, strict=True)

    def logits_and_stages(self, images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return logits and stage activations in evaluation mode."""
        activations, hooks = {}, []
        for stage, layer in STAGES.items():
            keep = lambda _, __, output, stage=stage: activations.update({stage: nhwc(output)})  # noqa: E731
            hooks.append(getattr(self.net, layer).register_forward_hook(keep))
        with torch.no_grad():
            logits = self.net(nchw(images)).numpy()
        for hook in hooks:
            hook.remove()
        return logits, activations

    def make_smooth(self) -> None:
        """Replace every ReLU by silu."""
        for layer in list(self.net.modules()):
            for name, child in layer.named_children():
                if isinstance(child, torch.nn.ReLU):
                    setattr(layer, name, torch.nn.SiLU())

    def train(self, images: np.ndarray, labels: np.ndarray) -> Training:
        """Return the results for one training batch; the network's statistics change."""
        self.net.zero_grad()
        self.net.train()
        logits = self.net(nchw(images))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long()).backward()
        self.net.eval()
        return Training(
            logits.detach().numpy(),
            {key: tensor.numpy().copy() for key, tensor in self.net.state_dict().items() if "running" in key},
            {key: parameter.grad.numpy().copy() for key, parameter in self.net.named_parameters()},
        )


def perturbed(rng: np.random.Generator, mean: np.ndarray, var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return random running statistics: those of a batch, randomly perturbed.

    Independent random statistics would make the activations of a deep network vanish or explode.
    """
    return mean + rng.normal(0, 0.2, mean.shape) * np.sqrt(var), var * rng.uniform(0.7, 1.4, var.shape)


class KerasPeer:
    """A network of keras.applications, on JAX."""

    def __init__(self, name: str, seed: int = 0, size: tuple[int, int] = (64, 96)):
        self.name, self.models = name, {}
        with relaxed():
            keras.utils.set_random_seed(seed)
            net = self.net(size)
            rng = np.random.default_rng(seed)
            norms = [layer for layer in net.layers if isinstance(layer, keras.layers.BatchNormalization)]
            for layer in net.layers:
                if isinstance(layer, keras.layers.Conv2D) and layer.use_bias:
                    layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
            for norm in norms:
                if norm.scale:
                    norm.gamma.assign(rng.uniform(0.5, 1.5, norm.gamma.shape))
                norm.beta.assign(rng.normal(0, 0.2, norm.beta.shape))
                norm.momentum, momentum = 0.0, norm.momentum
            net(random_images(*size, seed=1), training=True)
            for norm in norms:
                norm.momentum = momentum
                mean, var = perturbed(rng, np.asarray(norm.moving_mean), np.asarray(norm.moving_variance))
                norm.moving_mean.assign(mean)
                norm.moving_variance.assign(var)
            self.first = net

    def net(self, size: tuple[int, int]):
        """Return the network for an image size, which Keras fixes; all sizes have equal weights."""
        if size not in self.models:
            made = getattr(keras.applications, self.name)(
                weights=None, input_shape=(*size, 3), classifier_activation=None
            )
            if self.models:
                made.set_weights(self.first.get_weights())
            self.models[size] = made
        return self.models[size]

    def save(self, folder: Path, kind: str) -> Path:
        """Write the weights as ``.h5`` (the layout of the published files), ``.weights.h5`` or ``.keras``."""
        path = folder / f"keras{kind}"
        with relaxed():
            if kind == ".h5":
                write_legacy_h5(path, self.first)
            elif kind == ".keras":
                self.first.save(path)
            else:
                self.first.save_weights(path)
        return path

    def logits_and_stages(self, images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return logits and stage activations in evaluation mode."""
        with relaxed():
            net = self.net(images.shape[1:3])
            ends = {"stem": "pool1_pool"}
            for layer in net.layers:
                if layer.name.endswith("_out"):  # the last block of each stage wins
                    ends[f"stage{int(layer.name[4]) - 1}"] = layer.name
            probe = keras.Model(net.input, [net.output, *(net.get_layer(name).output for name in ends.values())])
            logits, *stages = (np.asarray(x) for x in probe(images, training=False))
        return logits, dict(zip(ends, stages, strict=True))

    def make_smooth(self) -> None:
        """Replace every ReLU by silu."""
        for net in self.models.values():
            for layer in net.layers:
                if getattr(layer, "activation", None) is keras.activations.relu:
                    layer.activation = keras.activations.silu

    def train(self, images: np.ndarray, labels: np.ndarray) -> Training:
        """Return the results for one training batch; the network's statistics stay the same."""
        with relaxed():
            net = self.net(images.shape[1:3])
            trainable = [v.value for v in net.trainable_variables]
            non_trainable = [v.value for v in net.non_trainable_variables]

            def loss(trainable):
                logits, new = net.stateless_call(trainable, non_trainable, images, training=True)
                picked = jax.nn.log_softmax(logits)[np.arange(len(labels)), labels]
                return -picked.mean(), (logits, new)

            (_, (logits, new)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(trainable)
        names = [[v.path for v in group] for group in (net.non_trainable_variables, net.trainable_variables)]
        return Training(np.asarray(logits), *(
            {name: np.asarray(value) for name, value in zip(paths, values, strict=True) if "seed" not in name}
            for paths, values in zip(names, (new, grads), strict=True)
        ))  # fmt: skip


def write_legacy_h5(path: Path, net) -> None:
    """Write the weights in the layout of Keras 2, which the published files have; Keras 3 reads but does not write it.

    Keras then loads the file into a fresh network, which confirms the layout.
    """
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in net.layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.2.4"
        for layer in net.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{variable.name}:0" for variable in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, variable in zip(names, layer.weights, strict=True):
                group[name] = np.asarray(variable.value)
    fresh = net.__class__.from_config(net.get_config())
    fresh.load_weights(path)
    assert all(np.array_equal(a, b) for a, b in zip(fresh.get_weights(), net.get_weights(), strict=True))


@contextlib.contextmanager
def relaxed():
    """Allow Keras, which is not written for strict promotion, to mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def random_images(height: int, width: int, seed: int) -> np.ndarray:
    """Return three images of large random color patches with noise, so that their logits differ."""
    rng = np.random.default_rng(seed)
    patches = rng.normal(0, 2, (3, 2, 2, 3)).repeat(height // 2 + 1, 1).repeat(width // 2 + 1, 2)
    return (patches[:, :height, :width] + rng.normal(size=(3, height, width, 3))).astype(np.float32)


def nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy().transpose(0, 2, 3, 1)


def versions() -> dict[str, str]:
    """Return the versions of the peers."""
    return {module.__name__: module.__version__ for module in (torch, torchvision, timm, keras)}
