"""Networks of keras.applications on JAX, with the interface of `peers.TorchPeer`."""

import contextlib
import os
from pathlib import Path
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")

import h5py
import jax
import keras
import numpy as np
from peers import Training, perturbed, random_images


class KerasPeer:
    """A network of keras.applications for images of ``size``, and for other sizes, if its layers allow it."""

    def __init__(self, name: str, seed: int = 0, size: tuple[int, int] = (64, 96)):
        self.name, self.size, self.models = name, size, {}
        with relaxed():
            keras.utils.set_random_seed(seed)
            net = self.net(size)
            rng = np.random.default_rng(seed)
            norms = [layer for layer in net.layers if isinstance(layer, keras.layers.BatchNormalization)]
            for layer in net.layers:
                if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
                    draw_weights(rng, layer)
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

    def net(self, size: tuple[int, int], dtype: str = "float32"):
        """Return the network for an image size and a dtype, fixed when Keras builds it; all have equal weights."""
        if (size, dtype) not in self.models:
            keras.config.set_dtype_policy(dtype)
            made = getattr(keras.applications, self.name)(
                weights=None, input_shape=(*size, 3), classifier_activation=None
            )
            keras.config.set_dtype_policy("float32")
            if self.models:
                made.set_weights(self.first.get_weights())
            self.models[size, dtype] = made
        return self.models[size, dtype]

    def save(self, folder: Path, kind: str) -> Path:
        """Write the weights as ``.h5`` (the layout of the published files), ``.weights.h5`` or ``.keras``."""
        path = folder / f"keras{kind}"
        with relaxed():
            if kind == ".h5":
                write_legacy_h5(path, self.first)
            elif kind == ".keras":  # states the size of the images, which must be square
                self.net((max(self.size),) * 2).save(path)
            else:
                self.first.save_weights(path)
        return path

    def logits_and_stages(self, images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return logits and stage activations in evaluation mode."""
        with relaxed():
            net = self.net(images.shape[1:3])
            ends = stage_layers(net)
            probe = keras.Model(net.input, [net.output, *(layer.output for layer in ends.values())])
            logits, *stages = (np.asarray(x) for x in probe(images, training=False))
        return logits, dict(zip(ends, stages, strict=True))

    def train(self, images: np.ndarray, labels: np.ndarray) -> Training:
        """Return the results for one training batch, in the images' precision; the statistics stay the same."""
        with relaxed(), norms_in_float64() if images.dtype == np.float64 else contextlib.nullcontext():
            net = self.net(images.shape[1:3], str(images.dtype))
            trainable = [v.value for v in net.trainable_variables]
            non_trainable = [v.value for v in net.non_trainable_variables]

            def loss(trainable):
                logits, new = net.stateless_call(trainable, non_trainable, images, training=True)
                picked = jax.nn.log_softmax(logits)[np.arange(len(labels)), labels]
                return -picked.mean(), (logits, new)

            (_, (logits, new)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(trainable)
        # In a second network, Keras continues the numbers of unnamed layers; the first has the published names.
        groups = (self.first.non_trainable_variables, self.first.trainable_variables)
        names = [[v.path for v in group] for group in groups]
        return Training((np.asarray(logits),), *(
            {name: np.asarray(value) for name, value in zip(paths, values, strict=True) if "seed" not in name}
            for paths, values in zip(names, (new, grads), strict=True)
        ))  # fmt: skip


def stage_layers(net) -> dict[str, keras.Layer]:
    """Return our stages, and the corresponding layers of a network."""
    layers = {layer.name: layer for layer in net.layers}
    if net.name.startswith("vgg"):
        return {f"stage{number}": layers[f"block{number}_pool"] for number in range(1, 6)}
    if net.name == "inception_v3":  # its pools are unnamed
        pools = [layer for layer in net.layers if isinstance(layer, keras.layers.MaxPooling2D)]
        last = {"stage1": "mixed2", "stage2": "mixed7", "stage3": "mixed10"}
        return {"stem": pools[1], **{stage: layers[name] for stage, name in last.items()}}
    if net.name == "xception":  # its sums are unnamed
        sums = [layer for layer in net.layers if isinstance(layer, keras.layers.Add)]
        return {
            "stem": layers["block1_conv2_act"], "stage1": sums[0], "stage2": sums[1], "stage3": sums[-2],
            "stage4": layers["block14_sepconv2_act"],
        }  # fmt: skip
    outputs = {name: layer for name, layer in layers.items() if name.endswith("_out")}  # the last of a stage wins
    return {"stem": layers["pool1_pool"], **{f"stage{int(name[4]) - 1}": layer for name, layer in outputs.items()}}


def draw_weights(rng: np.random.Generator, layer: keras.layers.Conv2D | keras.layers.Dense) -> None:
    """Draw a kernel and a bias that keep the scale of the activations, so that logits depend on the image."""
    layer.kernel.assign(rng.normal(0, (2 / np.prod(layer.kernel.shape[:-1])) ** 0.5, layer.kernel.shape))
    if layer.use_bias:
        layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))


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


def norms_in_float64():
    """Let Keras's BatchNormalization compute in float64, which it casts to float32 (seen in Keras 3.15.1)."""
    return mock.patch("keras.src.backend.result_type", return_value="float64")


@contextlib.contextmanager
def relaxed():
    """Allow Keras, which is not written for strict promotion, to mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
