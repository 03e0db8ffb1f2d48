"""ResNet-56 on CIFAR-10 for 64,000 steps, as in He et al. 2015, section 4.2.

Unlike in the paper, weight decay applies only to kernels, images are normalized per channel, and the parameters of the
best epoch on a held-out split of 5,000 images are kept.

Command:  python scripts/train.py resnet56_cifar10 --data.dir DIR_OR_ZIP
Shows:    the accuracy of the published recipe; plain56_cifar10 is the same network without shortcuts
Device:   an accelerator; on a CPU only at a reduced length, such as --train.epochs 1
Time:     34 min for 8 epochs on 2 busy CPU cores; full length, 64,000 steps, has not been run
Expected: 80.9 % test top-1 with --train.epochs 8 --schedule.name warmup_cosine; 93.03 % in the paper at full length
"""

from cnnjax import create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Schedule, Train

experiment = Experiment(
    model=create("resnet56_cifar"),
    data=Data(source="cifar10", validation=0.1),
    augmentation=Augmentation(pad_crop=4, flip=True),
    optimizer=Optimizer(name="momentum", lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Schedule(name="step", boundaries=("32000st", "48000st"), factor=0.1),
    train=Train(epochs=182, batch_size=128),
    early_stopping=EarlyStopping(metric="top1"),
)
