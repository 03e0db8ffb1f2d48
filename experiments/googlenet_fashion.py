"""GoogLeNet at an eighth of its width and 28 pixels, on Fashion-MNIST.

The stem keeps all 28x28 pixels, and the two auxiliary heads count 0.3 each in the training loss, as in the paper.

Command:  python scripts/train.py googlenet_fashion --data.dir DIR
Shows:    Inception blocks of parallel branches, and auxiliary heads
Device:   any; 2 CPU cores suffice at this size
Time:     not recorded yet
Expected: not recorded yet
"""

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Train

experiment = Experiment(
    model=create("googlenet", width=8, stem="cifar", aux_heads=True, input_size=28, channels=1, num_classes=10),
    data=Data(source="fashion_mnist"),
    optimizer=Optimizer(name="adam", lr=1e-3),
    train=Train(epochs=3, batch_size=128),
)
