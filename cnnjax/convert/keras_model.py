"""A whole model in a Keras file: its own head and image scaling are adopted, and the result is checked.

A file of weights alone says nothing about activations, pooling or preprocessing; a file of a model does. The converted
network is therefore compared with what the file's own layers compute, and refused unless both agree.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.convert.keras_definition import Definition, Head, find_head, find_prefix
from cnnjax.convert.keras_layers import apply_layer, compute, per_channel
from cnnjax.convert.rules import Rules, Table, keras_layer, table_names
from cnnjax.convert.sources import Normalization
from cnnjax.convert.tensors import GET_AGAIN, Tensors
from cnnjax.errors import UserError, quoted
from cnnjax.functional import Variables, apply
from cnnjax.models.heads import HeadedArch, without_head
from cnnjax.models.layers import Arch

HIDDEN = "hidden_{i}"
OUTPUT = "predictions"
"""Names of the head's layers in the tables; a file's own names are replaced by them."""
LARGEST_ERROR = 1e-4
"""Largest difference between the outputs, relative to the largest output."""


class OwnModel(NamedTuple):
    """A network adapted to the model in a file, and how to check it."""

    arch: HeadedArch
    tensors: Tensors
    """The file's tensors, with the head's layers named as in the tables."""
    normalization: Normalization | None
    """How the file's own layers scale the images; None if it has no such layers."""
    check: Callable[[Variables], None]
    """Raises UserError unless the converted network computes what the file's own layers compute."""


def head_rules() -> Rules:
    """Return the rules of a head with hidden layers."""
    return *keras_layer(HIDDEN, "head/hidden/{i}"), *keras_layer(OUTPUT, "head/output")


def adapt(arch: Arch, table: Table, definition: Definition, tensors: Tensors) -> OwnModel:
    """Return the network with the head of the model in the file.

    Args:
        arch: the network, with its number of classes, or 0 for the embedding alone.
        table: the publisher's table of names.
        definition: the model in the file.
        tensors: its tensors.

    Raises:
        UserError: a layer of the file is not known, or its head is not one that a network here can have.
    """
    if not isinstance(arch, HeadedArch):
        raise UserError(f"the file holds a whole model, whose head a {arch.family} cannot use; give its weights alone")
    tensors = tensors._replace(read=functools.partial(_read, tensors))
    known = frozenset(name.rpartition("/")[0] for name in table_names(table, without_head(arch)))
    head = find_head(definition, known)
    _check_epsilon(arch, definition)
    own = _with_head(_with_size(arch, definition), head)
    renamed = _rename_head(head, _without_scaling(definition, tensors))
    normalization = _normalization(definition, tensors, arch.channels)

    def check(variables: Variables) -> None:
        """Compare the network with the file."""
        _check(own, variables, definition, head, tensors, normalization)

    return OwnModel(own, renamed, normalization, check)


def _read(tensors: Tensors, name: str) -> np.ndarray:
    """Return a tensor of a layer in the file, whose weights may be missing."""
    if name not in tensors.shapes:
        raise UserError(f"it holds no {name}; {GET_AGAIN}")
    return tensors.read(name)


def _check_epsilon(arch: HeadedArch, definition: Definition) -> None:
    """Raise UserError for a norm with another epsilon, whose effect on the outputs may be small."""
    for layer in definition.layers.values():
        epsilon = layer.config.get("epsilon")
        if layer.kind == "BatchNormalization" and epsilon != getattr(arch, "epsilon", None):
            raise UserError(f"layer {quoted(layer.name)} has epsilon {epsilon}; give --model.epsilon {epsilon}")


def _is_binary(head: Head) -> bool:
    """Return whether the head has one output, the probability of the second class."""
    return bool(head.layers) and head.layers[-1].units == 1


def _with_size(arch: HeadedArch, definition: Definition) -> HeadedArch:
    """Return the network for the size of the images in the file, if the file states one."""
    height, width, _ = definition.input_shape
    if height and width and height != width:
        raise UserError(f"the model takes images of {height}x{width} pixels; only square images are supported")
    return arch.replace(input_size=height) if height and width else arch


def _with_head(arch: HeadedArch, head: Head) -> HeadedArch:
    """Return the network with the classes and hidden layers of the file's head."""
    if not head.layers or not arch.num_classes:
        return arch
    *hidden, output = head.layers
    wanted = "sigmoid" if _is_binary(head) else "softmax"
    if output.activation not in ((wanted,) if _is_binary(head) else (wanted, "linear")):
        raise UserError(
            f"layer {quoted(output.name)} has {output.units} outputs and the activation "
            f"{output.activation}; a network here has one sigmoid output, or softmax over its classes"
        )
    for layer in hidden:
        if layer.activation != arch.activation:
            raise UserError(
                f"layer {quoted(layer.name)} has the activation {layer.activation}, and the network "
                f"{arch.activation}; the hidden layers of a head have the network's activation"
            )
    rates = {layer.dropout for layer in (*hidden[1:], output)} if hidden else set()
    return arch.replace(
        num_classes=2 if _is_binary(head) else output.units, head_hidden=tuple(layer.units for layer in hidden),
        head_dropout=max(rates, default=0.0), head_sigmoid=_is_binary(head),
    )  # fmt: skip


def _without_scaling(definition: Definition, tensors: Tensors) -> Tensors:
    """Return the tensors without those of the scaling layers, which become the normalization."""
    scaling = {layer.name for layer in find_prefix(definition)}
    return tensors._replace(
        shapes={name: shape for name, shape in tensors.shapes.items() if name.rpartition("/")[0] not in scaling}
    )


def _rename_head(head: Head, tensors: Tensors) -> Tensors:
    """Return the tensors with the table's names for the head."""
    names = {
        layer.name: OUTPUT if layer is head.layers[-1] else HIDDEN.replace("{i}", str(index))
        for index, layer in enumerate(head.layers)
    }
    own: dict[str, str] = {}
    for name in tensors.shapes:
        layer, _, variable = name.rpartition("/")
        own[f"{names.get(layer, layer)}/{variable}"] = name
    if len(own) != len(tensors.shapes):
        raise UserError(f"a layer besides the last one is named {OUTPUT!r}; rename it in Keras and save again")
    shapes = {new: tensors.shapes[name] for new, name in own.items()}
    return Tensors(tensors.path, shapes, lambda name: tensors.read(own[name]))


def _normalization(definition: Definition, tensors: Tensors, channels: int) -> Normalization | None:
    """Return the scaling layers at the start as a mean and a standard deviation of values in [0, 1]."""
    prefix = find_prefix(definition)
    if not prefix:
        return None

    def scaled(value: float) -> np.ndarray:
        images = jnp.full((1, 1, 1, channels), value, jnp.float32)
        for layer in prefix:
            images = apply_layer(layer, tensors.read, [images])
        return np.asarray(images, np.float64).reshape(-1)

    offset, scale = scaled(0.0), scaled(255.0) - scaled(0.0)
    if not (scale > 0).all():
        raise UserError(f"the model scales its images by {listed_numbers(scale)}; the factors must be positive")
    return Normalization(tuple((0 - offset / scale).tolist()), tuple((1 / scale).tolist()))


def listed_numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _check(
    arch: HeadedArch, variables: Variables, definition: Definition, head: Head, tensors: Tensors,
    normalization: Normalization | None,
) -> None:  # fmt: skip
    """Compare both networks on two random images."""
    height, width, channels = (
        given or own for given, own in zip(definition.input_shape, arch.image_shape, strict=True)
    )
    if channels != arch.channels:
        raise UserError(
            f"the model takes {channels} channels, and the network {arch.channels}; give --model.channels {channels}"
        )
    pixels = jax.random.uniform(jax.random.key(0), (2, height, width, channels), jnp.float32, 0, 255)
    if normalization is None:
        theirs_in = ours_in = pixels / 127.5 - 1
    else:
        theirs_in = pixels
        ours_in = (pixels / 255 - per_channel(normalization.mean, pixels)) / per_channel(normalization.std, pixels)
    try:
        theirs = _their_outputs(arch, definition, head, tensors, theirs_in)
    except (TypeError, ValueError) as mismatch:
        reason = str(mismatch).partition("\n")[0][:200]
        raise UserError(f"the layers in the file do not fit one another ({reason}); save the model again") from mismatch
    ours = apply(arch, variables, ours_in)[0].logits
    if theirs.shape != ours.shape:
        raise UserError(f"the model's output is {list(theirs.shape[1:])}, and the network's {list(ours.shape[1:])}")
    error = float(jnp.max(jnp.abs(ours - theirs)) / jnp.maximum(jnp.max(jnp.abs(theirs)), 1e-6))
    if not error < LARGEST_ERROR or math.isnan(error):
        raise UserError(
            f"the layers in the file compute something other than this network with their weights (outputs "
            f"differ by {error:.2g} of the largest); check the model and its options, such as activation and epsilon"
        )


def _their_outputs(
    arch: HeadedArch, definition: Definition, head: Head, tensors: Tensors, images: jax.Array
) -> jax.Array:
    """Return the file's logits, or its embedding if the network has no classes."""
    if not arch.num_classes or not head.layers:
        embedding = compute(definition, tensors.read, images, head.embedding)
        return embedding if embedding.ndim == 2 else embedding.mean((1, 2))
    last = definition.layers[head.layers[-1].name]
    before = compute(definition, tensors.read, images, last.inputs[0])
    logits = apply_layer(last, tensors.read, [before], activate=False)
    return jnp.concatenate([jnp.zeros_like(logits), logits], -1) if _is_binary(head) else logits
