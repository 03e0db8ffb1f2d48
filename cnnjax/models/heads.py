"""Classification heads, which map a network's embedding to its classes.

A head is linear or has hidden layers, which are common in networks fine-tuned on new classes.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field, model_validator

from cnnjax.errors import UserError
from cnnjax.models.layers import LARGEST_SIZE, Arch, Dense, Features, Network, Outputs, Size, Stage, activation
from cnnjax.models.regularization import Dropout
from cnnjax.schema import Number

MOST_HIDDEN = 10
"""Upper bound on hidden layers in a definition, which may come from an untrusted file."""


class HeadedArch(Arch):
    """A network whose embedding can be used alone, or with a linear head, or with hidden layers in its head."""

    num_classes: Annotated[int, Field(ge=0, le=LARGEST_SIZE)] = 1000
    """Number of classes; 0 omits the head, and the network returns its embedding."""
    head_hidden: Annotated[tuple[Size, ...], Field(max_length=MOST_HIDDEN)] = ()
    """Widths of dense layers between the embedding and the classes, each followed by the activation and dropout."""
    head_dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Dropout rate after each hidden layer."""
    head_sigmoid: bool = False
    """One output z instead of two, for two classes; the logits are (0, z), whose softmax is sigmoid(z)."""

    @model_validator(mode="after")
    def _hidden_layers_need_classes(self) -> Self:
        if self.head_hidden and not self.num_classes:
            raise ValueError("model.head_hidden needs model.num_classes of 1 or more: without classes there is no head")
        if self.head_dropout and not self.head_hidden:
            raise ValueError("model.head_dropout needs model.head_hidden: dropout comes after each hidden layer")
        if self.head_sigmoid and self.num_classes not in (0, 2):
            raise ValueError(
                f"model.head_sigmoid is given for {self.num_classes} classes; it needs 2, so leave out head_sigmoid"
            )
        return self


class DenseHead(nnx.Module):
    """Hidden dense layers, each followed by its activation and dropout, then a dense layer for the classes."""

    def __init__(self, arch: HeadedArch, inputs: int, rngs: nnx.Rngs):
        widths = (inputs, *arch.head_hidden)
        self.activation = activation(arch.activation)
        layers = [Dense(before, after, dtype=arch.dtype, rngs=rngs) for before, after in itertools.pairwise(widths)]
        self.hidden = nnx.List(layers)
        self.dropout = Dropout(arch.head_dropout)
        self.sigmoid = arch.head_sigmoid
        self.output = Dense(widths[-1], 1 if self.sigmoid else arch.num_classes, dtype=arch.dtype, rngs=rngs)

    def __call__(self, embedding: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Map [N, C] to [N, classes]."""
        x = embedding
        for layer in self.hidden:
            x = self.dropout(self.activation(layer(x)), rngs)
        logits = self.output(x)
        return jnp.concatenate([jnp.zeros_like(logits), logits], axis=1) if self.sigmoid else logits


Head = Dense | DenseHead | None
"""A linear head; one with hidden layers or a single output; or none."""


def make_head(arch: HeadedArch, inputs: int, rngs: nnx.Rngs) -> Head:
    """Return the head for an embedding [N, inputs], or None for a network without classes."""
    if not arch.num_classes:
        return None
    if arch.head_hidden or arch.head_sigmoid:
        return DenseHead(arch, inputs, rngs)
    return Dense(inputs, arch.num_classes, dtype=arch.dtype, rngs=rngs)


def apply_head(head: Head, embedding: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
    """Return the logits [N, classes], or the embedding [N, C] itself if there is no head."""
    if head is None:
        return embedding
    return head(embedding, rngs) if isinstance(head, DenseHead) else head(embedding)


def with_zero_output(params: dict[str, Any]) -> dict[str, Any]:
    """Return a network's parameters with zeros in the layer that computes the logits, the last one of its head."""
    head = params["head"]
    if "output" in head:
        return params | {"head": head | {"output": jax.tree.map(jnp.zeros_like, head["output"])}}
    return params | {"head": jax.tree.map(jnp.zeros_like, head)}


class HeadAlone(HeadedArch):
    """The head of another network as a network of its own. Its images are embeddings [N, 1, 1, D]."""

    family = "head"

    input_size: Size = 1
    channels: Size = 1
    """Length D of the embeddings."""

    def build(self, rngs: nnx.Rngs) -> "HeadAloneModule":
        return HeadAloneModule(self, rngs)


class HeadAloneModule(Network):
    """The layers of `HeadAlone`, which has no stages."""

    def __init__(self, arch: HeadAlone, rngs: nnx.Rngs):
        self.head = make_head(arch, arch.channels, rngs)

    def stages(self) -> Sequence[Stage]:
        return ()

    def features(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> Features:
        return {"embedding": images}

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        return Outputs(apply_head(self.head, features["embedding"][:, 0, 0, :], rngs))


def head_alone(arch: Arch, size: int) -> HeadAlone:
    """Return the head of ``arch`` for embeddings of length ``size``."""
    fields = [name for name in HEAD_FIELDS if hasattr(arch, name)]
    return HeadAlone(channels=size, **{name: getattr(arch, name) for name in ("activation", "dtype", *fields)})


HEAD_FIELDS = ("num_classes", "head_hidden", "head_dropout", "head_sigmoid")
"""Fields that define a head."""


def without_head(arch: Arch) -> Arch:
    """Return the network that computes the embedding, which the head of ``arch`` maps to classes.

    Raises:
        UserError: the network cannot omit its head.
    """
    nothing = HeadAlone(num_classes=0)
    try:
        return arch.replace(**{name: getattr(nothing, name) for name in HEAD_FIELDS if hasattr(arch, name)})
    except UserError:
        raise UserError(
            f"the network {arch.family} cannot omit its head (num_classes 0); choose another network"
        ) from None
