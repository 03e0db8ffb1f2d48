"""The PyTorch networks of scripts/benchmark.py have as many parameters as ours."""

import pytest
import torch

from cnnjax.benchmark import torch_networks
from cnnjax.benchmark.blocks import network
from cnnjax.benchmark.command import Options
from cnnjax.complexity import complexity

MODELS = (
    "lenet", "mlp", "resnet20_cifar", "plain20_cifar", "resnext_block", "separable_entry", "separable_middle",
    "alexnet", "googlenet", "vgg11_bn", "resnet18", "regnet_x_400mf", "regnet_y_400mf", "xception",
)  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_peer_has_as_many_parameters_and_classes_as_ours(model):
    (job,) = Options(models=(model,)).jobs("train")
    net = torch_networks.make(job).train()
    assert sum(parameter.numel() for parameter in net.parameters()) == complexity(network(model)).parameters
    height, width, channels = job.image_shape
    assert net.eval()(torch.zeros(1, channels, height, width)).shape == (1, job.num_classes)
