"""Untrained networks to export. Their statistics are not the initial ones, so that a lost one changes the logits."""

from pathlib import Path

import jax
import numpy as np

from cnnjax import Variables, init
from cnnjax.data import Preprocessing
from cnnjax.models.layers import Arch
from cnnjax.runs.predictor import Predictor


def predictor_of(arch: Arch) -> Predictor:
    """Return a network with random parameters and statistics, non-ASCII class names, and BGR if it has colors."""
    params, statistics = init(arch, jax.random.key(0))
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype), statistics)
    mean = (0.4, 0.5, 0.6)[: arch.channels]
    preprocessing = Preprocessing(
        height=arch.input_size, width=arch.input_size, mean=mean, std=(0.25,) * len(mean),
        channel_order="bgr" if arch.channels == 3 else "rgb",
    )  # fmt: skip
    classes = tuple(f"größe {number}" for number in range(arch.num_classes))
    return Predictor(arch, Variables(params, drawn), classes, preprocessing, Path("untrained"), {})
