"""LeNet-5 with sigmoid as in lenet_fashion, at batch 128.

Command:  python scripts/train.py lenet_batch128_fashion --data.dir DIR
Shows:    what four times fewer updates cost a network with sigmoid
Device:   any; 2 CPU cores suffice
Time:     145 s of training on 2 CPU cores that ran other work at the same time
Expected: 88.3 % test top-1 (seed 0)
"""

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Train

experiment = Experiment(
    model=create("lenet", activation="sigmoid", pooling="avg"),
    data=Data(source="fashion_mnist"),
    optimizer=Optimizer(name="adam", lr=1e-3),
    train=Train(epochs=30, batch_size=128),
)
