"""Exported files hold the network, its preprocessing and its classes, and are discarded if they do not."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from cnnjax import create, load_pretrained
from cnnjax.errors import UserError
from cnnjax.export import program, targets, verification
from cnnjax.export.model_card import license_of, model_card
from cnnjax.export.program import example_images
from cnnjax.export.source import ExportSource, open_source
from cnnjax.export.stablehlo import exported
from cnnjax.export.verification import READERS, checked_file, same_bits
from cnnjax.functional import leaves_by_path
from tests.export.networks import predictor_of
from tests.script import run_script

LENET = create("lenet", input_size=12)
RESNET = create("resnet20_cifar", depths=(1, 1), width=4, input_size=8)


def source_of(arch=LENET, **origin) -> ExportSource:
    return ExportSource(predictor_of(arch), "mine", origin)


@pytest.mark.compiles_large
@pytest.mark.parametrize("arch", [LENET, pytest.param(RESNET, marks=pytest.mark.compiles_large)])
def test_stablehlo_is_for_every_platform_and_batch_without_native_code(arch):
    network = predictor_of(arch)
    found = exported(network)
    assert found.platforms == ("cpu", "cuda", "tpu")
    assert str(found.in_avals[0].shape) == f"(batch, {arch.input_size}, {arch.input_size}, {arch.channels})"
    assert set(re.findall(r"custom_call @([\w.]+)", found.mlir_module())) <= {"shape_assertion"}  # JAX's own
    images = example_images(network, 3)
    outputs = found.call(images)
    np.testing.assert_allclose(outputs["logits"], network.logits(images), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs["probabilities"].sum(1), 1, rtol=1e-5)
    names = [bytes(np.asarray(row)).rstrip(b"\0").decode() for row in outputs["class_names"]]
    assert names == list(network.classes)


@pytest.mark.many_processes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_stablehlo_runs_in_a_process_without_cnnjax(dtype, tmp_path):
    with jax.enable_x64(dtype == "float64"):
        source = source_of(RESNET.replace(dtype=dtype))
        targets.TARGETS["stablehlo"](source, tmp_path / "a.hlo")
        images = example_images(source.network, 4)
        np.save(tmp_path / "images.npy", images)
        expected = source.network.logits(images)
    blocked = f"import runpy, sys; sys.modules['cnnjax'] = None; runpy.run_path({str(READERS / 'read_stablehlo.py')!r})"
    paths = [str(tmp_path / name) for name in ("a.hlo", "images.npy", "outputs.npz")]
    environment = {"JAX_ENABLE_X64": str(int(dtype == "float64")), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", blocked, *paths], check=True, env=environment, cwd=tmp_path)
    with np.load(tmp_path / "outputs.npz") as outputs:
        tolerance = verification.TOLERANCE[dtype]
        np.testing.assert_allclose(outputs["logits"], expected, rtol=tolerance, atol=tolerance)
        assert outputs["logits"].dtype == ("float64" if dtype == "float64" else "float32")


def test_safetensors_holds_the_variables_by_their_paths(tmp_path):
    source = source_of(RESNET)
    line = targets.TARGETS["safetensors"](source, tmp_path / "a.safetensors")
    expected = leaves_by_path(source.network.variables._asdict())
    stored = load_file(tmp_path / "a.safetensors")
    assert line == f"{len(expected)} tensors by path"
    assert "batch_stats/stem/norm/mean" in stored
    assert stored.keys() == expected.keys()
    assert all(same_bits(stored[name], np.asarray(leaf)) for name, leaf in expected.items())


def test_a_folder_is_read_back_bit_for_bit_with_its_card(tmp_path):
    results = {"images": 10_000, "top1": 0.8103, "top5": 0.99, "loss": 0.5}
    origin = {"license": "mit", "trained": {"run": "mine", "seed": 3, "data": "cifar10", "results": {"test": results}}}
    source = source_of(RESNET, **origin)
    targets.TARGETS["folder"](source, tmp_path / "out")
    network = load_pretrained(f"folder:{tmp_path / 'out'}")
    assert (network.arch, network.classes) == (RESNET, source.network.classes)
    assert network.preprocessing == source.network.preprocessing
    for before, after in zip(*(jax.tree.leaves(n.variables) for n in (source.network, network)), strict=True):
        assert same_bits(np.asarray(before), np.asarray(after))
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\nlibrary_name: cnnjax\npipeline_tag: image-classification\n---\n")
    assert "| test | 10,000 | 81.03 % | 99.00 % | 0.5000 |" in card
    assert "Data: cifar10." in card
    assert open_source(str(tmp_path / "out")).origin == origin
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        targets.TARGETS["folder"](source, tmp_path / "out")


def test_a_card_says_what_is_not_known():
    card = model_card(source_of())
    assert card.startswith("---\nlicense: unknown\n")
    assert "Data: not known." in card
    assert "The score of these weights is not known." in card


@pytest.mark.parametrize("license", [3, "", "mit\nx: y", "MIT License", None, ["mit"]])
def test_an_invalid_license_of_an_untrusted_folder_is_unknown(license):
    assert license_of({"license": license}) == "unknown"


def test_the_card_of_a_published_network_states_its_license_and_score():
    origin = {"license": "bsd-3-clause", "published": {"name": "x.tv", "source": "torchvision", "data": "imagenet",
                                                        "top1": 80.858, "top5": None}}  # fmt: skip
    card = model_card(source_of(**origin))
    assert "| imagenet | 80.86 % | - |" in card
    assert "published by torchvision as x.tv" in card
    assert open_source("lenet.fashion_mnist").origin["license"] == "mit"


@pytest.mark.parametrize("target", ["stablehlo", "safetensors"])
def test_a_file_that_differs_is_discarded(target, tmp_path, monkeypatch):
    def differs(reader, file, *arguments):
        assert file.is_file()
        return {"logits": np.ones((1, 10), np.float32), "params/conv1/kernel": np.zeros(3, np.float32)}

    monkeypatch.setattr(verification, "run_reader", differs)
    with pytest.raises(UserError, match="the exported file was discarded: read again"):
        targets.TARGETS[target](source_of(), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_network_that_does_not_fit_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "LARGEST", 10_000)
    with pytest.raises(UserError, match=r"more than the 2 GiB of a file; use --to safetensors"):
        targets.TARGETS["stablehlo"](source_of(), tmp_path / "a")
    with pytest.raises(UserError, match="has no classes"):
        targets.TARGETS["stablehlo"](source_of(RESNET.replace(num_classes=0)), tmp_path / "a")


def test_a_file_that_does_not_run_is_discarded(tmp_path):
    with pytest.raises(UserError, match="discarded, because it does not run"):
        verification.run_reader("read_safetensors.py", tmp_path / "missing")


def test_no_file_is_overwritten(tmp_path):
    (tmp_path / "a").write_text("mine")
    for out in (tmp_path / "a", tmp_path / "missing" / "a"):
        with pytest.raises(UserError, match="give a new name in an existing folder"), checked_file(out, print):
            raise AssertionError
    assert (tmp_path / "a").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/run", "--to", "folder", "out"], "there is no folder nowhere/run"),
        (["lenet.fashion", "--to", "folder", "out"], "did you mean 'lenet.fashion_mnist'"),
        (["lenet.fashion_mnist", "--to", "onxx", "out"], "did you mean 'onnx'"),
        (["lenet.fashion_mnist", "--to", "folder", "out", "--license", "MIT License"], "--license is 'MIT License'"),
        (["lenet.fashion_mnist", "--to", "folder", "out", "--trust-code"], "apply to run folders"),
        (["lenet.fashion_mnist", "out"], "--to"),
        (["empty", "--to", "folder", "out"], "config.json"),
    ],
)
def test_bad_input_is_one_error(arguments, message, tmp_path):
    (tmp_path / "empty").mkdir()
    done = run_script("export.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_run_is_exported_with_its_results(trained_run, tmp_path):
    done = run_script("export.py", trained_run, "--to", "folder", tmp_path / "out", "--license", "cc-by-4.0")
    assert done.returncode == 0, done.stderr
    assert "license of the weights: cc-by-4.0" in done.stdout
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trained by cnnjax, run run, seed 0" in card
    assert "Data: mnist." in card
