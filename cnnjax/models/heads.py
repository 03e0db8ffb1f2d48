"""Classification heads: what maps a network's embedding to its classes.

A head is linear, or has hidden layers, as networks that are fine-tuned to new classes often do.
"""

import itertools
from typing import Annotated, Self

import jax
from flax import nnx
from pydantic import Field, model_validator

from cnnjax.models.layers import LARGEST_SIZE, Arch, Dense, Size, activation
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

    @model_validator(mode="after")
    def _hidden_layers_need_classes(self) -> Self:
        if self.head_hidden and not self.num_classes:
            raise ValueError("model.head_hidden needs model.num_classes of 1 or more: without classes there is no head")
        if self.head_dropout and not self.head_hidden:
            raise ValueError("model.head_dropout needs model.head_hidden: dropout follows its hidden layers")
        return self


class DenseHead(nnx.Module):
    """Hidden dense layers, each followed by its activation and dropout, then a dense layer for the classes."""

    def __init__(self, arch: HeadedArch, inputs: int, rngs: nnx.Rngs):
        widths = (inputs, *arch.head_hidden)
        self.activation = activation(arch.activation)
        layers = [Dense(before, after, dtype=arch.dtype, rngs=rngs) for before, after in itertools.pairwise(widths)]
        self.hidden = nnx.List(layers)
        self.dropout = Dropout(arch.head_dropout)
        self.output = Dense(widths[-1], arch.num_classes, dtype=arch.dtype, rngs=rngs)

    def __call__(self, embedding: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Map [N, C] to [N, classes]."""
        x = embedding
        for layer in self.hidden:
            x = self.dropout(self.activation(layer(x)), rngs)
        return self.output(x)


Head = Dense | DenseHead | None
"""A linear head, one with hidden layers, or none."""


def make_head(arch: HeadedArch, inputs: int, rngs: nnx.Rngs) -> Head:
    """Return the head for an embedding [N, inputs], or None for a network without classes."""
    if not arch.num_classes:
        return None
    if arch.head_hidden:
        return DenseHead(arch, inputs, rngs)
    return Dense(inputs, arch.num_classes, dtype=arch.dtype, rngs=rngs)


def apply_head(head: Head, embedding: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
    """Return the logits [N, classes], or the embedding [N, C] itself if there is no head."""
    if head is None:
        return embedding
    return head(embedding, rngs) if isinstance(head, DenseHead) else head(embedding)
