"""A RegNetX of six blocks at 28 pixels, on Fashion-MNIST.

The widths follow the quantized linear rule, as in the published networks.

Command:  python scripts/train.py regnetx_fashion --data.dir DIR
Shows:    grouped convolutions, with widths from the four parameters of the rule
Device:   any; 2 CPU cores suffice at this size
Time:     149 s of training on 2 CPU cores that ran other work at the same time
Expected: 88.3 % test top-1 (seed 0)
"""

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Train

experiment = Experiment(
    model=create(
        "regnet_x_400mf",
        depth=6,
        w_0=16,
        w_a=12.0,
        w_m=2.0,
        group_width=8,
        stem_width=16,
        stem="cifar",
        input_size=28,
        channels=1,
        num_classes=10,
    ),
    data=Data(source="fashion_mnist"),
    optimizer=Optimizer(name="adam", lr=1e-3),
    train=Train(epochs=3, batch_size=128),
)
