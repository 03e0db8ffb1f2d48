"""A narrow airbench94 on CIFAR-10, for 5 minutes on 2 CPU cores.

Source: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3 and appendix A. The published rate,
11.5 per 1,024 examples for a loss that is summed, is 1.5 for the mean of a batch of 1,024; its decay is 1.33e-3 there.

    part            published                           here
    width           64, 256, 256                        32, 128, 128
    batch, epochs   1,024 and 9.9                       256 and 7, at a rate scaled with the batch
    update          Nesterov, 0.85; triangular rate     the same, with base_batch
    norms' biases   64 times the rate                   the rate of the kernels; biases do not decay
    whitening bias  trained for 3 epochs                trained throughout
    labels          smoothed by 0.2                     the same
    augmentation    alternating flip, reflected shift   random flip, shift with zeros, both by up to 2 pixels
    average         lookahead                           none; --train.ema-decay 0.98 is an alternative
    evaluation      6 mirrored and shifted views        one view while training, then also the mean of 6

Command:  python scripts/train.py resnet_speed_cifar10 --data.dir DIR_OR_ZIP
Shows:    the accuracy that a few minutes buy; sweep_speed_cifar10 compares settings
Device:   any; --model.width 64 --train.epochs 10 --train.batch-size 1024 is the published size
Time:     not measured; about 5 min on 2 idle CPU cores is expected
Expected: not recorded yet
"""

from cnnjax import create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Schedule, Train

experiment = Experiment(
    model=create("airbench94", width=32),
    data=Data(source="cifar10", validation=0.1),
    augmentation=Augmentation(pad_crop=2, flip=True),
    optimizer=Optimizer(name="nesterov", lr=1.5, base_batch=1024, momentum=0.85, weight_decay=1.33e-3),
    schedule=Schedule(name="one_cycle_linear", start=0.2, peak=0.23, end=0.07),
    train=Train(epochs=7, batch_size=256, label_smoothing=0.2, views=6, freeze=("whiten/kernel",)),
    early_stopping=EarlyStopping(metric="top1"),
)
