"""ResNet-18 on a folder of photos, from scratch: cats and dogs, or any other classes.

Command:  python scripts/train.py resnet18_photos --data.dir DIR_OR_ZIP
Shows:    what a small network learns from about a thousand photos of any size, without pretrained weights
Device:   any; 2 CPU cores suffice for a thousand photos
Time:     14 min of training on 2 shared CPU cores
Expected: 68.5 % test top-1 on 800 photos of cats and dogs after training on 1,080 (seed 0)
"""

from cnnjax import create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Schedule, Train

experiment = Experiment(
    model=create("resnet18", num_classes=2, input_size=96),
    data=Data(source="image_folder", size=96),
    augmentation=Augmentation(pad_crop=8, flip=True),
    optimizer=Optimizer(name="momentum", lr=0.02, momentum=0.9, weight_decay=5e-4),
    schedule=Schedule(name="warmup_cosine", warmup="2ep"),
    train=Train(epochs=40, batch_size=32),
    early_stopping=EarlyStopping(metric="top1"),
)
