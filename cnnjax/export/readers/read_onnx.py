"""Run an exported ONNX file. This program needs onnxruntime, not cnnjax.

usage: python read_onnx.py FILE IMAGES.npy OUTPUTS.npz

IMAGES.npy holds RGB images uint8 [N, H, W, C], resized and cropped to the size of the file's input.
"""

import sys

import numpy as np
import onnxruntime

file, images, outputs = sys.argv[1:]
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]  # logits and probabilities
np.savez(outputs, **dict(zip(names, session.run(names, {"images": np.load(images)}), strict=True)))
