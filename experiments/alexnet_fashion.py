"""AlexNet as commonly taught, with batch norm, at a quarter of its width and 28 pixels, on Fashion-MNIST.

The 11x11 convolution of stride 4 is replaced by a 3x3 one. For full size: --model.width 96 --model.stem imagenet
--model.resize 227, on an accelerator.

Command:  python scripts/train.py alexnet_fashion --data.dir DIR
Shows:    the network of 2012 on small grayscale images
Device:   any; 2 CPU cores suffice at this size
Time:     319 s of training on 2 CPU cores that ran other work at the same time
Expected: 89.7 % test top-1 (seed 0)
"""

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Train

experiment = Experiment(
    model=create("alexnet_bn", width=24, stem="cifar", input_size=28, channels=1, num_classes=10),
    data=Data(source="fashion_mnist"),
    optimizer=Optimizer(name="adam", lr=1e-3),
    train=Train(epochs=3, batch_size=128),
)
