"""Networks of torchvision and timm with random weights and statistics, which ours are compared with.

The interface of every peer is numpy: images [N, H, W, C], and tensors by their names in published files. `keras_peer`
has the networks of Keras.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from cnnjax.benchmark.torch_networks import import_torchvision

import_torchvision()
import timm  # noqa: E402
import torchvision  # noqa: E402

AUX_WEIGHT = 0.3
"""Weight of each auxiliary head's loss (Szegedy et al. 2015, section 5)."""


class Training(NamedTuple):
    """Results of a peer for one training batch."""

    outputs: tuple[np.ndarray, ...]
    """Logits of the head and of the auxiliary heads, from the first to the last."""
    statistics: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    """Gradients of the mean loss."""


class TorchPeer:
    """A network of torchvision or timm; its statistics come from images of ``size``; its builder takes ``options``."""

    def __init__(
        self, source: str, name: str, seed: int = 0, size: tuple[int, int] = (64, 96), **options: bool
    ):  # fmt: skip
        torch.manual_seed(seed)
        make = timm.create_model if source == "timm" else torchvision.models.get_model
        self.source, self.net = source, make(name, **options)
        rng = np.random.default_rng(seed)
        norms = [layer for layer in self.net.modules() if isinstance(layer, nn.BatchNorm2d)]
        with torch.no_grad():
            for layer in self.net.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    draw_weights(rng, layer)
                elif isinstance(layer, nn.Dropout):
                    layer.p = 0.0
            for norm in norms:
                norm.weight.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, norm.weight.shape)))
                norm.bias.copy_(torch.from_numpy(rng.normal(0, 0.2, norm.bias.shape)))
                norm.momentum = 1.0
            self.net.train()(nchw(random_images(*size, seed=1)))
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
        for stage, layer in stage_layers(self.source, self.net).items():
            keep = lambda _, __, output, stage=stage: activations.update({stage: nhwc(output)})  # noqa: E731
            hooks.append(self.net.get_submodule(layer).register_forward_hook(keep))
        with torch.no_grad():
            logits = self.net(nchw(images)).numpy()
        for hook in hooks:
            hook.remove()
        return logits, activations

    def train(self, images: np.ndarray, labels: np.ndarray) -> Training:
        """Return the results for one training batch, in the images' precision; the network's statistics change."""
        self.net.to(torch.from_numpy(images).dtype).zero_grad()
        self.net.train()
        results = self.net(nchw(images))
        logits, *aux = results if isinstance(results, tuple) else (results,)
        targets = torch.from_numpy(labels).long()
        loss = nn.functional.cross_entropy(logits, targets)
        for other in aux:
            loss = loss + AUX_WEIGHT * nn.functional.cross_entropy(other, targets)
        loss.backward()
        training = Training(
            tuple(output.detach().numpy() for output in (logits, *reversed(aux))),  # torchvision: the last aux first
            {key: tensor.numpy().copy() for key, tensor in self.net.state_dict().items() if "running" in key},
            {key: parameter.grad.numpy().copy() for key, parameter in self.net.named_parameters()},
        )
        self.net.float().eval()
        return training


def stage_layers(source: str, net: nn.Module) -> dict[str, str]:
    """Return our stages, and the corresponding modules of a torch network."""
    numbers = range(1, 5)
    match type(net).__name__:
        case "ResNet":
            return {"stem": "maxpool", **{f"stage{n}": f"layer{n}" for n in numbers}}
        case "AlexNet":
            return {f"stage{n}": f"features.{layer}" for n, layer in enumerate((2, 5, 7, 9, 12), 1)}
        case "VGG":
            pools = [name for name, layer in net.named_modules() if isinstance(layer, nn.MaxPool2d)]
            return {f"stage{n}": name for n, name in enumerate(pools, 1)}
        case "GoogLeNet":
            last_blocks = [f"inception{block}" for block in ("3b", "4a", "4d", "4e", "5b")]
            return {"stem": "maxpool2", **{f"stage{n}": block for n, block in enumerate(last_blocks, 1)}}
        case "Inception3":
            return {"stem": "maxpool2", "stage1": "Mixed_5d", "stage2": "Mixed_6e", "stage3": "Mixed_7c"}
        case "RegNet":
            stage = "s" if source == "timm" else "trunk_output.block"
            return {"stem": "stem", **{f"stage{n}": f"{stage}{n}" for n in numbers}}
        case "Xception":
            return {"stem": "act2", "stage1": "block1", "stage2": "block2", "stage3": "block11", "stage4": "act4"}
        case unknown:
            raise ValueError(f"{unknown} has no table of stages")


def draw_weights(rng: np.random.Generator, layer: nn.Conv2d | nn.Linear) -> None:
    """Draw a kernel and a bias that keep the scale of the activations, so that logits depend on the image."""
    layer.weight.copy_(torch.from_numpy(rng.normal(0, (2 / layer.weight[0].numel()) ** 0.5, layer.weight.shape)))
    if layer.bias is not None:
        layer.bias.copy_(torch.from_numpy(rng.normal(0, 0.1, layer.bias.shape)))


def perturbed(rng: np.random.Generator, mean: np.ndarray, var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return random running statistics: those of a batch, randomly perturbed.

    Independent random statistics would make the activations of a deep network vanish or explode.
    """
    return mean + rng.normal(0, 0.2, mean.shape) * np.sqrt(var), var * rng.uniform(0.7, 1.4, var.shape)


def random_images(height: int, width: int, seed: int) -> np.ndarray:
    """Return three images of large random color patches with noise, so that their logits differ."""
    rng = np.random.default_rng(seed)
    patches = rng.normal(0, 2, (3, 2, 2, 3)).repeat(height // 2 + 1, 1).repeat(width // 2 + 1, 2)
    return (patches[:, :height, :width] + rng.normal(size=(3, height, width, 3))).astype(np.float32)


def nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    """Return a copy, because some networks change activations in place later."""
    return tensor.numpy().transpose(0, 2, 3, 1).copy()


def versions() -> dict[str, str]:
    """Return the versions of the peers."""
    return {module.__name__: module.__version__ for module in (torch, torchvision, timm)}
