"""RandAugment and TrivialAugment: random operations of one table, each with a magnitude.

The operations, their ranges of magnitude and the 31 magnitudes per range are those of torchvision's `RandAugment` and
`TrivialAugmentWide` with the default interpolation, nearest neighbor. Each image of a batch has its own operation, so
all are computed for all images; to keep that cheap, the geometric ones share one affine map and the blends one blend.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.config import Augmentation
from cnnjax.data.augmentation import color, tones, warp

BINS = 31
"""Magnitudes per operation, numbered from 0, the weakest."""
OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
MAPS = {
    "ShearX": warp.shear_x, "ShearY": warp.shear_y, "TranslateX": warp.translate_x, "TranslateY": warp.translate_y,
    "Rotate": warp.rotate,
}  # fmt: skip
BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")
SIGNED = tuple(name in MAPS or name in BLENDS for name in OPERATIONS)
"""Whether the sign of an operation's magnitude is drawn."""


class Ranges(NamedTuple):
    """Largest magnitudes of a policy."""

    shear: float
    translate: tuple[float, float]
    """In pixels, along x and y."""
    rotate: float
    """In degrees."""
    blend: float
    posterize: int
    """Number of lowest bits that are cleared."""


def ranges(policy: str, height: int, width: int) -> Ranges:
    """Return the ranges of ``"randaugment"`` (Cubuk et al. 2020) or ``"trivialaugment"``, the wide space of Müller and
    Hutter 2021, for images of the given size.
    """
    if policy == "randaugment":
        return Ranges(0.3, (150 / 331 * width, 150 / 331 * height), 30, 0.9, 4)
    return Ranges(0.99, (32, 32), 135, 0.99, 6)


def magnitudes(policy: str, height: int, width: int) -> np.ndarray:
    """Return the magnitudes without sign, float32 [operations, BINS]; 0 for operations without a magnitude."""
    most = ranges(policy, height, width)
    rising = np.linspace(0, 1, BINS)
    rows = {
        "ShearX": most.shear * rising,
        "ShearY": most.shear * rising,
        "TranslateX": most.translate[0] * rising,
        "TranslateY": most.translate[1] * rising,
        "Rotate": most.rotate * rising,
        **dict.fromkeys(BLENDS, most.blend * rising),
        "Posterize": np.round(8 - most.posterize * rising),
        "Solarize": 1 - rising,
    }
    return np.array([rows.get(name, 0 * rising) for name in OPERATIONS], np.float32)


def augment(config: Augmentation, key: jax.Array, images: jax.Array) -> jax.Array:
    """Apply random operations to uint8 [N, H, W, C], drawn independently for each image.

    RandAugment applies ``num_ops`` operations of magnitude ``magnitude``; TrivialAugment applies one operation of a
    random magnitude.
    """
    table = jnp.asarray(magnitudes(config.auto_augment, *images.shape[1:3]))
    count = config.num_ops if config.auto_augment == "randaugment" else 1
    for number in range(count):
        op_key, bin_key, sign_key = jax.random.split(jax.random.fold_in(key, number), 3)
        shape = (len(images),)
        chosen = jax.random.randint(op_key, shape, 0, len(OPERATIONS), jnp.int32)
        bins = jax.random.randint(bin_key, shape, 0, BINS, jnp.int32)
        if config.auto_augment == "randaugment":
            bins = jnp.full(shape, config.magnitude, jnp.int32)
        negative = jax.random.bernoulli(sign_key, 0.5, shape) & jnp.array(SIGNED)[chosen]
        strength = table[chosen, bins]
        images = operate(images, chosen, jnp.where(negative, -strength, strength))
    return images


def operate(images: jax.Array, chosen: jax.Array, strength: jax.Array) -> jax.Array:
    """Apply one operation to each image.

    Args:
        images: uint8 [N, H, W, C].
        chosen: int32 [N], positions in `OPERATIONS`.
        strength: float32 [N], the magnitude of each operation, with its sign.
    """
    return jax.vmap(_operate)(images, chosen, strength)


def _operate(image: jax.Array, chosen: jax.Array, strength: jax.Array) -> jax.Array:
    height, width, _ = image.shape
    name = {operation: chosen == number for number, operation in enumerate(OPERATIONS)}
    inverse = warp.identity()
    for operation, inverse_of in MAPS.items():
        inverse = jnp.where(name[operation], inverse_of(strength, height, width), inverse)
    moved = warp.warp(image, inverse)

    factor = 1 + strength
    shades = color.gray(image)
    other = jnp.where(name["Brightness"], 0, shades)
    other = jnp.where(name["Contrast"], shades.mean(), other)
    blended = color.blend(image, other, factor)
    if image.shape[-1] == 1:
        blended = jnp.where(name["Color"], image, blended)
    blended = jnp.where(name["Sharpness"], color.sharpness(image, factor), blended)
    is_blend = name["Brightness"] | name["Color"] | name["Contrast"] | name["Sharpness"]
    result = jnp.where(is_blend, blended, moved)

    for operation, changed in (
        ("Posterize", tones.posterize(image, strength)),
        ("Solarize", tones.solarize(image, strength)),
        ("AutoContrast", tones.autocontrast(image)),
        ("Equalize", tones.equalize(image)),
    ):
        result = jnp.where(name[operation], changed, result)
    return result
