"""LeNet-5 with ReLU and Adam on the embedded subset of Fashion-MNIST: the first thing to run.

Command:  python scripts/train.py lenet_mini      (or: make train)
Shows:    the whole path from images to a report, without a download
Device:   any; 2 CPU cores suffice
Time:     9 s of training on 2 CPU cores
Expected: 87.9 % test top-1 after 14 epochs (seed 0, stopped early)
"""

from cnnjax import create
from cnnjax.config import Data, EarlyStopping, Experiment, Optimizer, Train

experiment = Experiment(
    model=create("lenet", activation="relu", pooling="max"),
    data=Data(source="fashion_mnist_mini"),
    optimizer=Optimizer(name="adam", lr=2e-3),
    train=Train(epochs=30, batch_size=64),
    early_stopping=EarlyStopping(metric="loss", patience=3),
)
