"""Where a trained network sees a class in a photo: Grad-CAM heat maps as PNG files."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Preprocessing, normalize
from cnnjax.functional import Variables
from cnnjax.gradcam import heat_maps
from cnnjax.models.layers import Arch
from cnnjax.report.heat_map import draw, save
from cnnjax.runs.predictor import Predictor
from cnnjax.system.files import make_folder, require_empty

LONGEST_STEM = 80
"""Maximum characters of a photo's name in the name of its heat map."""


class HeatMaps:
    """A folder of heat maps of a network, one PNG file for each photo."""

    def __init__(self, folder: Path, network: Predictor):
        """Create the folder; raise UserError if it exists and is not empty, or the network has no heat maps."""
        network.require_classes()
        require_empty(folder)
        blank = np.zeros((network.preprocessing.height, network.preprocessing.width, network.preprocessing.channels))
        heat_map(network, blank.astype(np.uint8), network.classes[0])  # before anything is written or printed
        make_folder(folder)
        self.folder, self.network = folder, network

    def write(self, number: int, photo: str, image: np.ndarray, name: str) -> str | None:
        """Write the heat map of a class over a photo, as the network sees it; return a notice if the map is empty.

        Args:
            number: number of the photo, which starts the file name, since photos in two folders may share a name.
            photo: path of the photo.
            image: the photo as read for the network, uint8 [H, W, C].
            name: the class.
        """
        stem = re.sub(r"[^\w.-]", "_", Path(photo).stem)[:LONGEST_STEM]
        path = self.folder / f"{number:04d}-{stem}.png"
        heat = heat_map(self.network, image, name)
        save(draw(image, heat), path)
        return None if heat.any() else f"{path} shows no colors: no position of the last stage supports {name}"


def heat_map(network: Predictor, image: np.ndarray, name: str) -> np.ndarray:
    """Return where the network sees the class ``name`` in an image uint8 [H, W, C]: float [h, w], 0 or more."""
    label = np.array([network.classes.index(name)], np.int32)
    return np.asarray(_heat_maps(network.arch, network.preprocessing, network.variables, image[None], label)[0])


@functools.partial(jax.jit, static_argnames=("arch", "preprocessing"))
def _heat_maps(
    arch: Arch, preprocessing: Preprocessing, variables: Variables, images: jax.Array, classes: jax.Array
) -> jax.Array:  # fmt: skip
    return heat_maps(arch, variables, normalize(preprocessing, jnp.asarray(images), arch.dtype), classes)
