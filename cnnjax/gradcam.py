"""Grad-CAM: where in an image a network sees a class (Selvaraju et al. 2017, equations 1 and 2)."""

import jax
import jax.numpy as jnp

from cnnjax.errors import UserError, choose
from cnnjax.functional import Variables, apply_after, features, stages
from cnnjax.models.layers import Arch
from cnnjax.ops.dispatch import parameter_dtype


def heat_maps(
    arch: Arch, variables: Variables, images: jax.Array, classes: jax.Array, stage: str | None = None
) -> jax.Array:  # fmt: skip
    """Return one Grad-CAM heat map for each image.

    A channel's weight is the mean of the gradient of the class's logit over the channel's positions; the map is the
    positive part of the weighted sum of the channels.

    Args:
        arch: the model definition.
        variables: variables of ``arch``.
        images: [N, H, W, C] float, preprocessed.
        classes: the class to explain in each image, int [N].
        stage: the stage whose activation is weighted; by default the last.

    Returns:
        float [N, h, w], 0 or more, in the resolution of the stage.

    Raises:
        UserError: the network has no stage of that name, or its activation has only one position.

    Example:
        >>> from cnnjax import create, init
        >>> arch = create("lenet")
        >>> images = jax.random.normal(jax.random.key(1), (2, 28, 28, 1))
        >>> heat_maps(arch, init(arch, jax.random.key(0)), images, classes=jnp.array([3, 7])).shape
        (2, 5, 5)
    """
    stage = stages(arch)[-1] if stage is None else choose("stage", stage, stages(arch))
    activation, gradient = logit_gradient(arch, variables, images, classes, stage)
    if activation.shape[1:3] == (1, 1):
        raise UserError(
            f"{stage} of this {arch.family} has one position, so there is no heat map; choose another stage"
        )
    weights = gradient.mean((1, 2), keepdims=True)
    return jax.nn.relu((weights * activation).sum(-1))


def logit_gradient(
    arch: Arch, variables: Variables, images: jax.Array, classes: jax.Array, stage: str
) -> tuple[jax.Array, jax.Array]:
    """Return a stage's activation and the gradient of each image's class logit with respect to it, [N, h, w, C].

    The arguments are those of `heat_maps`. Both arrays are float32, or float64 in a float64 network.

    Example:
        >>> from cnnjax import create, init
        >>> arch = create("lenet")
        >>> variables, images = init(arch, jax.random.key(0)), jnp.zeros((2, 28, 28, 1))
        >>> activation, gradient = logit_gradient(arch, variables, images, jnp.array([3, 7]), "stage1")
        >>> gradient.shape
        (2, 14, 14, 6)
    """
    activations = features(arch, variables, images)

    def logit(activation: jax.Array) -> jax.Array:
        logits = apply_after(arch, variables, stage, {**activations, stage: activation}).logits
        return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()  # an image's logit depends on no other image

    activation, gradient = activations[stage], jax.grad(logit)(activations[stage])
    wide = parameter_dtype(arch.dtype)
    return activation.astype(wide), gradient.astype(wide)
