"""Two design spaces on 10,000 images of CIFAR-10: AnyNetX_A and RegNetX, 30 networks from each.

The comparison of Radosavovic et al. 2020, "Designing Network Design Spaces", section 3, at a scale for two CPU cores:
at most 20 M multiply-adds at 32 pixels, 10,000 images for training and validation, and 5 epochs. The paper trains 500
networks of 400 M multiply-adds for 10 epochs of ImageNet.

Command:  python scripts/sweep.py design_spaces --data.dir DIR_OR_ZIP
Shows:    whether the constraints that lead from AnyNetX_A to RegNetX give better networks at this scale
Device:   any; several hours on 2 CPU cores, because each network compiles its own program
Time:     not measured; 60 members of 5 epochs
Expected: not recorded yet; "no difference found" if the bands of the two EDFs overlap at every error
"""

from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Schedule, Train
from cnnjax.design_spaces import Budget
from cnnjax.models.regnet import AnyNet
from cnnjax.sweep import Sweep, sampled_networks

SPACES = ("AnyNetXA", "RegNetX")
COUNT = 30
MOST_MULTIPLY_ADDS = 20e6

model = AnyNet(input_size=32, stem="cifar", num_classes=10)
experiment = Experiment(
    model=model,
    data=Data(source="cifar10", per_class=1000, validation=0.1),
    augmentation=Augmentation(pad_crop=4, flip=True),
    optimizer=Optimizer(name="momentum", lr=0.1, momentum=0.9, weight_decay=5e-5),
    schedule=Schedule(name="cosine"),
    train=Train(epochs=5, batch_size=128),
    early_stopping=EarlyStopping(metric="top1"),
)
sweep = Sweep(axes=(sampled_networks(model, SPACES, COUNT, budget=Budget(multiply_adds=(0, MOST_MULTIPLY_ADDS))),))
