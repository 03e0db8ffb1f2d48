"""LeNet-5 with ReLU and adam on the embedded subset of Fashion-MNIST: the first thing to run.

Command:  python scripts/train.py lenet_mini      (or: make train)
Shows:    the whole way from images to a report, without a download
Device:   any; 2 CPU cores suffice
Time:     7 s of training and 8 s of start and report on 2 CPU cores
Expected: 87 % test top-1 after 9 epochs (stopped early)
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
