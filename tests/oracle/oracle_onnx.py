"""Run exported ONNX files in onnxruntime: every family, at batch 1 and 5, within 1e-4."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from cnnjax import create
from cnnjax.errors import UserError
from cnnjax.export.onnx_file import onnx_model, write_onnx
from cnnjax.export.program import example_images
from tests.export.networks import predictor_of
from tests.script import run_script

SMALL = {"num_classes": 10}
NETWORKS = {
    "lenet": create("lenet", input_size=12),
    "lenet, head as convolutions": create("lenet", head="conv", pooling="max", activation="gelu"),
    "mlp": create("mlp"),
    "alexnet": create("alexnet", **SMALL),
    "alexnet with response normalization": create("alexnet_lrn", **SMALL),
    "vgg11_bn": create("vgg11_bn", input_size=32, **SMALL),
    "googlenet": create("googlenet", input_size=64, **SMALL),
    "googlenet as in the paper": create("googlenet_paper", **SMALL),
    "resnet, padded shortcuts": create("resnet20_cifar", depths=(1, 1), input_size=16),
    "resnet v1": create("resnet50_v1", depths=(1, 1), width=8, input_size=33, **SMALL),
    "resnet v1.5": create("resnet50", depths=(1, 1), width=8, input_size=32, **SMALL),
    "resnet v2": create("resnet50_v2", depths=(1, 1), width=8, input_size=32, **SMALL),
    "resnext": create("resnext50_32x4d", depths=(1, 1), groups=4, input_size=32, **SMALL),
    "regnet with squeeze and excitation": create("regnet_y_400mf", input_size=32, **SMALL),
    "xception": create("xception", input_size=75, **SMALL),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_probabilities_equal_the_network_s(name):
    network = predictor_of(NETWORKS[name])
    session = onnxruntime.InferenceSession(onnx_model(network), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(network.classes)
    for count in (1, 5):
        images = example_images(network, count)
        logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
        expected = network.logits(images)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * min(1, np.abs(expected).max()))
        np.testing.assert_allclose(probabilities, jax.nn.softmax(jnp.asarray(expected)), atol=1e-6)


ACTIVATIONS = [
    "celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "identity", "leaky_relu",
    "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_sign", "softplus", "sparse_plus",
    "sparse_sigmoid", "squareplus", "swish", "tanh",
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_function(activation):
    network = predictor_of(create("mlp", activation=activation, input_size=4))
    session = onnxruntime.InferenceSession(onnx_model(network), providers=["CPUExecutionProvider"])
    images = example_images(network, 3)
    (logits,) = session.run(["logits"], {"images": images})
    np.testing.assert_allclose(logits, network.logits(images), rtol=1e-4, atol=1e-4)


def test_the_script_writes_a_checked_file(tmp_path):
    out = tmp_path / "lenet.onnx"
    done = run_script("export.py", "lenet.fashion_mnist", "--to", "onnx", out)
    assert done.returncode == 0, done.stderr
    assert "operator set 18, any batch size" in done.stdout
    onnx.checker.check_model(str(out), full_check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["lenet.onnx"]


def test_other_dtypes_are_refused(tmp_path):
    network = predictor_of(create("lenet", input_size=12, dtype="bfloat16"))
    with pytest.raises(UserError, match="ONNX export needs 'float32'"):
        write_onnx(network, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
