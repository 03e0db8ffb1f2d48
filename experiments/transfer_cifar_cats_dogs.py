"""ResNet-20, trained on eight classes of CIFAR-10, transferred to its cats and dogs.

Command:  python scripts/train.py transfer_cifar_cats_dogs --init run:runs/resnet20_cifar8 --data.dir DIR_OR_ZIP
          --data.per-class 50 uses 50 images a class, --phases 1 trains only the head, and --phases 0 without --init
          trains from scratch
Shows:    whether our own network transfers, and with how many images it stops mattering
Device:   any
Time:     not recorded yet
Expected: not recorded yet
"""

from cnnjax import create
from cnnjax.config import Augmentation, Data, Experiment, Optimizer, Phase, Schedule, Train

moved = Augmentation(pad_crop=4, flip=True)
experiment = Experiment(
    model=create("resnet20_cifar", num_classes=2),
    data=Data(source="cifar10", classes=("cat", "dog"), per_class=200),
    augmentation=moved,
    optimizer=Optimizer(name="momentum", lr=0.05, momentum=0.9, weight_decay=1e-4),
    schedule=Schedule(name="warmup_cosine", warmup="2ep"),
    train=Train(epochs=60, batch_size=32),
    phases=(
        Phase(
            train="head", epochs=30, optimizer=Optimizer(name="adam", lr=1e-2), schedule=Schedule(name="cosine"),
            augmentation=Augmentation(),
        ),
        Phase(train="stages:1", epochs=20, lr=0.01, norms="train"),
        Phase(train="all", epochs=20, lr=0.01, layer_decay=0.7, norms="train"),
    ),
)  # fmt: skip
