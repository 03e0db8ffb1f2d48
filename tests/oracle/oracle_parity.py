"""Compare converted networks with torchvision, timm and Keras: `make oracle`."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import parity
import pytest
from cases import COUNTED, KERAS, ONE_OF_EACH_FORM, SIZES, Case
from keras_peer import KerasPeer
from peers import TorchPeer, random_images

from cnnjax import create
from cnnjax.convert import load_weights, save_weights
from cnnjax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ASSETS = os.environ.get("CNNJAX_TEST_ASSETS")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def same_bits(a, b) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.mark.parametrize("case", ONE_OF_EACH_FORM, ids=lambda case: f"{case.name}-{case.source}-{case.kind}")
def test_outputs_statistics_gradients_and_a_round_trip_agree(case):
    row = parity.measure(case)
    print(row)
    assert row.agrees, row


@pytest.mark.parametrize(("variant", "source"), [("resnet18", "torchvision"), ("resnet50_v2", "keras")])
def test_two_swapped_rows_of_the_head_are_detected(variant, source, monkeypatch):
    def swapped(*arguments):
        variables = load_weights(*arguments)
        variables.params["head"]["kernel"] = variables.params["head"]["kernel"][:, [1, 0, *range(2, 1000)]]
        return variables

    monkeypatch.setattr(parity, "load_weights", swapped)
    monkeypatch.setattr(parity, "check_round_trip", lambda *_: None)
    row = parity.measure(Case(variant, source, ".safetensors" if source == "torchvision" else ".h5"))
    assert not row.agrees
    assert row.logits > 100 * parity.LARGEST_LOGITS
    assert row.stages < parity.LARGEST_LOGITS


def test_nan_parameters_are_detected(monkeypatch):
    def broken(*arguments):
        variables = load_weights(*arguments)
        return variables._replace(params=jax.tree.map(lambda x: x * np.float32(np.nan), variables.params))

    monkeypatch.setattr(parity, "load_weights", broken)
    monkeypatch.setattr(parity, "check_round_trip", lambda *_: None)
    with pytest.raises(AssertionError, match="not finite"):
        parity.measure(Case("resnet18", "torchvision", ".pth"))


def test_weights_written_back_with_a_changed_bit_are_detected(monkeypatch):
    def changed(*arguments):
        variables = load_weights(*arguments)
        variables.params["head"]["bias"][7] = np.nextafter(variables.params["head"]["bias"][7], np.float32(1))
        return variables

    monkeypatch.setattr(parity, "load_weights", changed)
    with pytest.raises(AssertionError, match="fc.bias"):
        parity.measure(Case("resnet18", "torchvision", ".pth"))


def test_parameters_of_the_largest_network_are_counted():
    assert parity.check_count(COUNTED) == 644_812_894


@pytest.mark.parametrize("name", ["resnet50_v1", "resnet50_v2"])
def test_all_keras_file_formats_give_the_same_bits(name, tmp_path):
    peer, arch = KerasPeer(KERAS[name]), create(name)
    legacy, *newer = (load_weights(arch, "keras", peer.save(tmp_path, k)) for k in (".h5", ".weights.h5", ".keras"))
    assert all(same_bits(legacy, other) for other in newer)


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_a_state_dict_round_trip_is_exact(source, tmp_path):
    peer, arch = TorchPeer(source, "resnet18"), create("resnet18")
    variables = load_weights(arch, source, peer.save(tmp_path, ".pth"))
    assert same_bits(variables, load_weights(arch, source, peer.save(tmp_path, ".safetensors")))
    save_weights(arch, variables, source, tmp_path / "back.safetensors")
    assert same_bits(variables, load_weights(arch, source, tmp_path / "back.safetensors"))

    from safetensors.numpy import load_file

    back, other = load_file(tmp_path / "back.safetensors"), TorchPeer(source, "resnet18", seed=7)
    other.load(back)  # strict
    for name, tensor in peer.net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert np.array_equal(back[name], tensor.numpy()), name
    images = random_images(*SIZES[0], seed=0)
    assert np.array_equal(other.logits_and_stages(images)[0], peer.logits_and_stages(images)[0])


class Marker:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(zipped, tmp_path):
    import torch

    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    tensors = TorchPeer("torchvision", "resnet18").net.state_dict()
    torch.save({**tensors, "extra": Marker(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="could run code"):
        load_weights(create("resnet18"), "torchvision", path)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_state_dict_is_refused(zipped, tmp_path):
    import torch

    path = tmp_path / "weights.pth"
    torch.save(TorchPeer("torchvision", "resnet18").net.state_dict(), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for cut in (0, 1, 20, 1000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(UserError) as error:
            load_weights(create("resnet18"), "torchvision", path)
        assert "\n" not in str(error.value)


def test_a_compressed_archive_is_refused(tmp_path):
    """Memory-mapped, its compressed bytes would be read as numbers."""
    import torch

    path, packed = tmp_path / "weights.pth", tmp_path / "packed.pth"
    torch.save(TorchPeer("torchvision", "resnet18").net.state_dict(), path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(UserError, match="is compressed"):
        load_weights(create("resnet18"), "torchvision", packed)


def test_objects_other_than_a_state_dict_are_refused(tmp_path):
    import torch

    path = tmp_path / "weights.pth"
    for content in ([1, 2], {"epoch": 3}, {"state_dict": {"conv1.weight": "text"}}, torch.zeros(3)):
        torch.save(content, path)
        with pytest.raises(UserError, match="state dict"):
            load_weights(create("resnet18"), "torchvision", path)


def test_a_tensor_that_claims_a_large_shape_is_refused_before_reading(tmp_path):
    import torch

    path = tmp_path / "weights.pth"
    tensors = dict(TorchPeer("torchvision", "resnet18").net.state_dict())
    tensors["conv1.weight"] = torch.zeros(1).expand(2**20, 2**20)
    torch.save(tensors, path)
    with pytest.raises(UserError, match=r"conv1.weight is \[1048576, 1048576\] instead of \[64, 3, 7, 7\]"):
        load_weights(create("resnet18"), "torchvision", path)


def test_half_precision_is_converted_exactly(tmp_path):
    import torch

    path = tmp_path / "weights.pth"
    tensors = {
        k: t.bfloat16() if t.is_floating_point() else t
        for k, t in TorchPeer("timm", "resnet18").net.state_dict().items()
    }
    torch.save(tensors, path)
    variables = load_weights(create("resnet18"), "timm", path)
    assert np.array_equal(variables.params["head"]["bias"], tensors["fc.bias"].float().numpy())


@pytest.mark.skipif(not ASSETS, reason="CNNJAX_TEST_ASSETS, the folder with weights/ and data/, is not set")
def test_the_published_resnet20_reaches_its_accuracy_on_cifar10(tmp_path):
    """The original PyTorch code reaches 0.8103 on the same JPEG files."""
    weights, data = (
        Path(ASSETS) / name for name in ("weights/cifar10_resnet20-12fca82f.th", "data/cifar10/cifar10-jpeg.zip")
    )
    run = tmp_path / "resnet20"
    script("convert.py", "resnet20_cifar", "--from", "cifar", weights, run, "--mean", 0.485, 0.456, 0.406,
           "--std", 0.229, 0.224, 0.225, "--classes", *CIFAR_CLASSES)  # fmt: skip
    output = script("evaluate.py", run, "--data.source", "image_folder", "--data.dir", data)
    row = next(line for line in output.splitlines() if line.count("%") == 3)
    top1 = float(row.split("│")[2].strip(" %")) / 100
    assert abs(top1 - 0.8103) <= 0.0003, output


def script(name: str, *arguments) -> str:
    command = [sys.executable, ROOT / "scripts" / name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
