"""Xception at a quarter of its width and 28 pixels, on Fashion-MNIST.

The stem keeps all 28x28 pixels, where the published one halves them twice.

Command:  python scripts/train.py xception_fashion --data.dir DIR
Shows:    depthwise separable convolutions with shortcuts
Device:   any; 2 CPU cores suffice at this size
Time:     not recorded yet
Expected: not recorded yet
"""

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Train

experiment = Experiment(
    model=create("xception", width=8, stem="cifar", input_size=28, channels=1, num_classes=10),
    data=Data(source="fashion_mnist"),
    optimizer=Optimizer(name="adam", lr=1e-3),
    train=Train(epochs=3, batch_size=128),
)
