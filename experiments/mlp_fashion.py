"""The dense baseline on the full Fashion-MNIST: what is reached without looking at neighbourhoods.

Command:  python scripts/train.py mlp_fashion --data.dir DIR
Shows:    what a network without convolutions reaches
Device:   any; 2 CPU cores suffice
Time:     5 s of training on 2 CPU cores
Expected: 89.0 % test top-1 after 16 epochs (stopped early), as much as the classic LeNet-5 of lenet_fashion
"""

from cnnjax import create
from cnnjax.config import Data, EarlyStopping, Experiment, Optimizer, Train

experiment = Experiment(
    model=create("mlp", activation="relu"),
    data=Data(source="fashion_mnist"),
    optimizer=Optimizer(name="adam", lr=1e-3),
    train=Train(epochs=30, batch_size=256),
    early_stopping=EarlyStopping(metric="loss", patience=5),
)
