"""Run an exported StableHLO file. This program needs jax and flatbuffers, not cnnjax.

usage: python read_stablehlo.py FILE IMAGES.npy OUTPUTS.npz

IMAGES.npy holds RGB images uint8 [N, H, W, C], resized and cropped to the size that `exported.in_avals` states.
"""

import sys
from pathlib import Path

import jax.export
import numpy as np

file, images, outputs = sys.argv[1:]
exported = jax.export.deserialize(bytearray(Path(file).read_bytes()))
result = exported.call(np.load(images))  # logits, probabilities and class_names
np.savez(outputs, **result)
