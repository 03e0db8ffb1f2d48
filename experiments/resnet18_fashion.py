"""ResNet-18 on the full Fashion-MNIST at 28 pixels, with the stem and width of the ImageNet network.

The stem reduces 28x28 pixels to 7x7; with --model.stem cifar it keeps all of them, at 14 times the multiply-adds.

Command:  python scripts/train.py resnet18_fashion --data.dir DIR
Shows:    how a network designed for large photos does on small grayscale images
Device:   an accelerator; on 2 CPU cores the 15 epochs take more than an hour
Time:     9 min per epoch on 2 shared CPU cores; full length has not been run
Expected: 75.6 % test top-1 after 1 epoch with --schedule.name constant
"""

from cnnjax import create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Schedule, Train

experiment = Experiment(
    model=create("resnet18", num_classes=10, input_size=28, channels=1),
    data=Data(source="fashion_mnist"),
    augmentation=Augmentation(pad_crop=2, flip=True),
    optimizer=Optimizer(name="momentum", lr=0.05, momentum=0.9, weight_decay=5e-4),
    schedule=Schedule(name="warmup_cosine", warmup="1ep"),
    train=Train(epochs=15, batch_size=128),
    early_stopping=EarlyStopping(metric="top1"),
)
