"""ResNet-20 on the eight classes of CIFAR-10 other than cat and dog, to be transferred to those two.

Command:  python scripts/train.py resnet20_cifar8 --data.dir DIR_OR_ZIP
Shows:    the network that transfer_cifar_cats_dogs starts from
Device:   any; about 10 min on 2 idle CPU cores
Time:     not recorded yet
Expected: not recorded yet
"""

from cnnjax import create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Schedule, Train

experiment = Experiment(
    model=create("resnet20_cifar", num_classes=8),
    data=Data(source="cifar10", classes=("airplane", "automobile", "bird", "deer", "frog", "horse", "ship", "truck")),
    augmentation=Augmentation(pad_crop=4, flip=True),
    optimizer=Optimizer(name="momentum", lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Schedule(name="warmup_cosine"),
    train=Train(epochs=12, batch_size=128),
    early_stopping=EarlyStopping(metric="top1"),
)
