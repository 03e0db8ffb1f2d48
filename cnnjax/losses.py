"""Losses: from a network's outputs and a batch to one value per example.

A loss is a frozen dataclass, like a model definition. Its fields are compile-time settings; values that may differ
between members of one compiled program (label smoothing) come with the `Hyperparameters`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from cnnjax.errors import UserError, near_matches, quoted
from cnnjax.schema import Number, Schema


class Batch(NamedTuple):
    """Input of one training step.

    images: [B, H, W, C], uint8 as stored.
    targets: labels int32 [B], or soft labels float32 [B, classes], one distribution over the classes per row.
    weights: float32 [B], the weight of each example; 0 masks padding. None weights all examples equally.
    """

    images: jax.Array
    targets: jax.Array
    weights: jax.Array | None = None

    def soft_targets(self, classes: int, dtype: Any) -> jax.Array:
        """Return the targets as distributions [B, classes]."""
        if self.targets.ndim == 1:
            return jax.nn.one_hot(self.targets, classes, dtype=dtype)
        return self.targets.astype(dtype)

    def labels(self) -> jax.Array:
        """Return the labels int32 [B]; for soft labels, the most likely class."""
        return self.targets if self.targets.ndim == 1 else self.targets.argmax(axis=-1).astype(jnp.int32)


class LossOutputs(Protocol):
    """Outputs that a loss reads; see `cnnjax.models.layers.Outputs`."""

    @property
    def logits(self) -> jax.Array: ...
    @property
    def aux(self) -> tuple[jax.Array, ...]: ...


class LossHyperparameters(Protocol):
    """Hyperparameters that a loss reads; see `cnnjax.optim.Hyperparameters`."""

    @property
    def label_smoothing(self) -> Any: ...


class Loss(Schema):
    """Base class of the losses. A subclass sets ``kind`` and implements ``__call__``."""

    kind: ClassVar[str]
    """Name of the loss in files."""

    def __call__(self, outputs: LossOutputs, batch: Batch, hyperparameters: LossHyperparameters) -> jax.Array:
        """Return the loss float32 [B] of each example, before weighting."""
        raise TypeError(f"{type(self).__name__} must implement __call__, which returns the loss [B] of each example")

    def to_dict(self) -> dict[str, Any]:
        """Return the loss as plain data: its kind and fields. Inverse of `from_dict`."""
        return {"kind": self.kind, **super().to_dict()}


class CrossEntropy(Loss, at="loss."):
    """Cross-entropy in nats with label smoothing (Szegedy et al. 2016, section 7) and auxiliary heads."""

    kind: ClassVar[str] = "cross_entropy"

    aux_weight: Annotated[Number, Field(ge=0)] = 0.3
    """Weight of each auxiliary head's loss, 0 or more (Szegedy et al. 2015, section 5: 0.3)."""

    def __call__(self, outputs: LossOutputs, batch: Batch, hyperparameters: LossHyperparameters) -> jax.Array:
        """Return the cross-entropy [B], plus ``aux_weight`` times the cross-entropy of each auxiliary head."""
        loss = self._of(outputs.logits, batch, hyperparameters)
        for logits in outputs.aux:
            loss += jnp.asarray(self.aux_weight, loss.dtype) * self._of(logits, batch, hyperparameters)
        return loss

    def _of(self, logits: jax.Array, batch: Batch, hyperparameters: LossHyperparameters) -> jax.Array:
        smoothing = jnp.asarray(hyperparameters.label_smoothing, logits.dtype)
        targets = optax.smooth_labels(batch.soft_targets(logits.shape[-1], logits.dtype), smoothing)
        return optax.softmax_cross_entropy(logits, targets)


class BinaryCrossEntropy(Loss, at="loss."):
    """Cross-entropy of two classes, from the logit of the second class against the first: logits[1] - logits[0].

    A head with one output z has the logits (0, z), so this is its cross-entropy -y log sigmoid(z) -
    (1 - y) log(1 - sigmoid(z)). Label smoothing moves y towards 1/2, as in `CrossEntropy`.
    """

    kind: ClassVar[str] = "binary_cross_entropy"

    def __call__(self, outputs: LossOutputs, batch: Batch, hyperparameters: LossHyperparameters) -> jax.Array:
        """Return the cross-entropy [B]."""
        logits = outputs.logits
        if logits.shape[-1] != 2:
            raise UserError(
                f"the loss binary_cross_entropy is given for {logits.shape[-1]} classes; it must have 2, so use "
                "cross_entropy"
            )
        smoothing = jnp.asarray(hyperparameters.label_smoothing, logits.dtype)
        target = optax.smooth_labels(batch.soft_targets(2, logits.dtype), smoothing)[:, 1]
        return optax.sigmoid_binary_cross_entropy(logits[:, 1] - logits[:, 0], target)


def weighted_mean(losses: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Return the weighted mean of losses [B], or 0 if the weights [B] sum to 0."""
    if weights is None:
        return losses.mean()
    total = weights.sum()
    return jnp.where(total > 0, (losses * weights).sum() / jnp.where(total > 0, total, 1), 0)


LOSSES: dict[str, type[Loss]] = {loss.kind: loss for loss in (CrossEntropy, BinaryCrossEntropy)}


def from_dict(data: object, losses: Mapping[str, type[Loss]] = LOSSES) -> Loss:
    """Read a loss written by `Loss.to_dict`; ``losses`` maps each known kind to its class."""
    if not isinstance(data, Mapping) or not isinstance(data.get("kind"), str):
        raise UserError(f"loss is {quoted(data)}; it must be an object with a 'kind'")
    kind = data["kind"]
    if kind not in losses:
        raise UserError(f"unknown loss {quoted(kind)}; {near_matches(kind, losses)}")
    return losses[kind].from_dict({k: v for k, v in data.items() if k != "kind"}, "loss")
