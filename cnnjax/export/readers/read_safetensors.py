"""Read the tensors of an exported safetensors file. This program needs safetensors and numpy, not cnnjax.

usage: python read_safetensors.py FILE TENSORS.npz
"""

import sys
from typing import Any

import numpy as np
from safetensors.numpy import load_file

file, outputs = sys.argv[1:]
tensors: Any = load_file(file)
np.savez(outputs, **tensors)
