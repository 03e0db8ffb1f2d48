"""LeNet-5 as it is taught, with sigmoid and average pooling, on the full Fashion-MNIST.

Command:  python scripts/train.py lenet_fashion --data.dir DIR
Shows:    what the classic network reaches with adam in 30 epochs
Device:   any; 2 CPU cores suffice
Time:     2 min on 2 CPU cores
Expected: 88.9 % test top-1
"""

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Train

experiment = Experiment(
    model=create("lenet", activation="sigmoid", pooling="avg"),
    data=Data(source="fashion_mnist"),
    optimizer=Optimizer(name="adam", lr=2e-3),
    train=Train(epochs=30, batch_size=256),
)
