"""A new head on the embedding of another network, for transfer learning.

Source: Yosinski et al. 2014, "How transferable are features in deep neural networks?", section 2: the lower layers are
those of a network trained on other classes, the head is new.

    part       shape
    backbone   [N, H, W, C] becomes its embedding [N, D]: any network with num_classes 0
    head       dense layers of the widths `hidden`, each with an activation; dropout; a dense layer with one output per
               class, or with `sigmoid` a single output z

With one output z the logits are (0, z): their softmax is (1 - sigmoid(z), sigmoid(z)), so metrics and predictions are
those of any network of two classes.
Expected: the parameters of the backbone, plus for a linear head D * classes + classes.
"""

import functools
from collections.abc import Sequence
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field, model_validator
from pydantic_core import ArgsKwargs

from cnnjax.models.layers import (
    LARGEST_SIZE,
    Activation,
    Arch,
    Dense,
    Features,
    Network,
    Outputs,
    Size,
    Stage,
    activation,
)
from cnnjax.models.regularization import Dropout
from cnnjax.schema import Number

SHARED = ("input_size", "channels", "dtype")
"""Fields that a classifier has in common with its backbone."""


class Head(Arch):
    """The head of a `Classifier` as a network of its own. Its images are embeddings [N, 1, 1, D]."""

    family = "head"

    num_classes: Annotated[int, Field(ge=0, le=LARGEST_SIZE)] = 0
    """Number of classes; 0: no head, and the network returns its embedding."""
    input_size: Size = 1
    channels: Size = 1
    """Length of the embedding."""
    activation: Activation = "relu"
    """Activation of the hidden layers, by its name in jax.nn."""
    hidden: tuple[Size, ...] = ()
    """Widths of dense layers between the embedding and the last layer; () is a linear head."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the inputs of the last layer that are set to zero in training, in [0, 1)."""
    sigmoid: bool = False
    """One output instead of two, for two classes."""

    @model_validator(mode="after")
    def _one_output_has_two_classes(self) -> Self:
        if self.sigmoid and self.num_classes not in (0, 2):
            raise ValueError(
                f"model.sigmoid is given for {self.num_classes} classes; it must have 2, so leave out --model.sigmoid"
            )
        return self

    def build(self, rngs: nnx.Rngs) -> "HeadNetwork":
        return HeadNetwork(self, rngs)


class Classifier(Head):
    """A backbone with a new head. Without these fields, size, channels and dtype are those of the backbone."""

    family = "classifier"

    channels: Size = 3
    backbone: Arch
    """The network that computes the embedding; its number of classes is set to 0."""

    @model_validator(mode="before")
    @classmethod
    def _takes_shared_fields(cls, given: Any) -> Any:
        backbone = given.kwargs.get("backbone") if isinstance(given, ArgsKwargs) and given.kwargs else None
        if not isinstance(backbone, Arch):
            return given
        return ArgsKwargs((), {**{name: getattr(backbone, name) for name in SHARED}, **given.kwargs})

    @model_validator(mode="after")
    def _gives_shared_fields(self) -> Self:
        shared = {name: getattr(self, name) for name in SHARED}
        object.__setattr__(self, "backbone", self.backbone.replace(num_classes=0, **shared))
        return self

    @property
    def head(self) -> Head:
        """The head alone."""
        options = {name: getattr(self, name) for name in ("num_classes", "activation", "hidden", "dropout", "sigmoid")}
        return Head(channels=embedding_size(self.backbone), dtype=self.dtype, **options)

    def build(self, rngs: nnx.Rngs) -> "ClassifierNetwork":
        return ClassifierNetwork(self, rngs)


@functools.lru_cache(maxsize=256)
def embedding_size(backbone: Arch) -> int:
    """Return the length of a network's embedding without allocating the network."""

    def embed(images: jax.Array) -> jax.Array:
        network = backbone.build(nnx.Rngs(0))
        network.eval()
        return network(images).logits

    dtype = jnp.dtype(backbone.dtype)
    return jax.eval_shape(embed, jax.ShapeDtypeStruct((1, *backbone.image_shape), dtype)).shape[1]


class ClassifierNetwork(Network):
    """The layers of `Classifier`; the stages are those of the backbone."""

    def __init__(self, arch: Classifier, rngs: nnx.Rngs):
        self.backbone = arch.backbone.build(rngs)
        self.head = HeadLayers(arch.head, rngs) if arch.num_classes else None

    def stages(self) -> Sequence[Stage]:
        return self.backbone.stages()

    def features(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> Features:
        self.backbone.remat = self.remat
        return self.backbone.features(images, rngs)

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        embedding = self.backbone.classify(features, rngs).logits
        return Outputs(embedding if self.head is None else self.head(embedding, rngs))


class HeadNetwork(Network):
    """The layers of `Head`, without stages."""

    def __init__(self, arch: Head, rngs: nnx.Rngs):
        self.head = HeadLayers(arch, rngs) if arch.num_classes else None

    def stages(self) -> Sequence[Stage]:
        return ()

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> Outputs:
        embedding = images.reshape(len(images), -1)
        return Outputs(embedding if self.head is None else self.head(embedding, rngs))


class HeadLayers(nnx.Module):
    """Hidden layers with activations, dropout, and the last layer."""

    def __init__(self, arch: Head, rngs: nnx.Rngs):
        widths = (arch.channels, *arch.hidden)
        pairs = zip(widths, arch.hidden, strict=False)
        self.hidden = nnx.List([Dense(before, after, dtype=arch.dtype, rngs=rngs) for before, after in pairs])
        self.activation, self.sigmoid = activation(arch.activation), arch.sigmoid
        self.dropout = Dropout(arch.dropout)
        self.output = Dense(widths[-1], 1 if arch.sigmoid else arch.num_classes, dtype=arch.dtype, rngs=rngs)

    def __call__(self, embedding: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Map [N, D] to logits [N, classes]."""
        x = embedding
        for layer in self.hidden:
            x = self.activation(layer(x))
        logits = self.output(self.dropout(x, rngs))
        return jnp.concatenate([jnp.zeros_like(logits), logits], axis=1) if self.sigmoid else logits
