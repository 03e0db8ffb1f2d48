"""Compare the reader of .pth files with torch: `make oracle`."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import torchvision

import cnnjax
from cnnjax.convert import load_weights
from cnnjax.convert.weight_files import open_tensors

ASSETS = os.environ.get("CNNJAX_TEST_ASSETS")
BASE = torch.arange(24.0).reshape(4, 6)
KINDS = {
    "transposed": BASE.t(), "a part": BASE[1:, 2:4], "empty": torch.zeros(0, 3), "one number": torch.tensor(3.5),
    "bfloat16": BASE.bfloat16(), "half": BASE.half(), "double": BASE.double(), "parameter": torch.nn.Parameter(BASE),
    "int": torch.arange(5, dtype=torch.int32), "bool": torch.tensor([True, False]), "repeated": BASE[:1].expand(3, 6),
}  # fmt: skip


def agrees(path: Path, expected: dict[str, torch.Tensor]) -> bool:
    """Assert equal names, shapes, types and bits."""
    with open_tensors(path, largest=2**20) as tensors:
        assert list(tensors.shapes) == list(expected)
        for name, tensor in expected.items():
            assert tensors.shapes[name] == (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            wide = tensor.dtype == torch.float64
            array, target = tensors.read(name), (tensor.detach() if wide else tensor.detach().float()).numpy()
            assert array.dtype == target.dtype and array.shape == target.shape
            assert array.tobytes() == target.tobytes()
    return True


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_every_kind_are_read(zipped, protocol, tmp_path):
    path = tmp_path / "a.pth"
    torch.save(KINDS, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    assert agrees(path, KINDS)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_checkpoint_is_read(zipped, tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    optimizer = torch.optim.AdamW([{"params": [parameter]} for parameter in net.parameters()])
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "best": 91.5,
        "arch": "x",
        "state_dict": net.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert agrees(tmp_path / "a.pth", net.state_dict())


@pytest.mark.skipif(not ASSETS, reason="CNNJAX_TEST_ASSETS, the folder with weights/ and data/, is not set")
def test_a_published_file_of_2018_is_read():
    path = Path(ASSETS) / "weights/cifar10_resnet20-12fca82f.th"
    content = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    assert agrees(path, {name.removeprefix("module."): tensor for name, tensor in content.items()})


def recipes(state: dict[str, torch.Tensor]) -> dict[str, tuple[object, float]]:
    """Return what training recipes save, and the factor of the parameters that are to be read."""
    halved = {name: tensor * 0.5 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    wide = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(1, 1)).state_dict()["n_averaged"]
    return {
        "an average beside the parameters": ({"state_dict": state, "state_dict_ema": halved, "arch": "x"}, 0.5),
        "with its optimizer": ({"epoch": 5, "model_state_dict": state, "optimizer_state_dict": {"state": {}}}, 1),
        "a prefix": ({f"backbone.{name}": tensor for name, tensor in state.items()}, 1),
        "two prefixes": ({f"module._orig_mod.{name}": tensor for name, tensor in state.items()}, 1),
        "AveragedModel": ({"n_averaged": averaged, **{f"module.{k}": v for k, v in state.items()}}, 1),
        "float64": (wide, 1),
    }


@pytest.mark.parametrize("name", recipes({}))
def test_what_recipes_save_is_read(name, tmp_path):
    net = torchvision.models.resnet18(num_classes=3)
    content, factor = recipes(net.state_dict())[name]
    torch.save(content, tmp_path / "a.pth")
    arch = cnnjax.create("resnet18", num_classes=3)
    variables = load_weights(arch, "torchvision", tmp_path / "a.pth")
    np.testing.assert_array_equal(variables.params["head"]["kernel"].T, net.fc.weight.detach().numpy() * factor)
