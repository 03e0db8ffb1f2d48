"""LeNet-5 with sigmoid as in lenet_fashion, trained by plain SGD at 0.01.

Command:  python scripts/train.py lenet_sgd_fashion --data.dir DIR
Shows:    how much worse SGD trains a network with sigmoid; with --model.activation relu the optimizer hardly matters
Device:   any; 2 CPU cores suffice
Time:     235 s of training on 2 CPU cores that ran other work at the same time
Expected: 77.6 % test top-1 (seed 0); 89.8 % with --model.activation relu
"""

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Train

experiment = Experiment(
    model=create("lenet", activation="sigmoid", pooling="avg"),
    data=Data(source="fashion_mnist"),
    optimizer=Optimizer(name="sgd", lr=0.01),
    train=Train(epochs=30, batch_size=32),
)
