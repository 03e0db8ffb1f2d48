"""ResNet-50 on ImageNet as published, or on any folder of photos.

Source: He et al. 2015, "Deep Residual Learning for Image Recognition", section 3.4 and tables 3 and 4.

    part          published                                   here
    images        short side 256 to 480, random 224x224 crop  random resized crop of 22 % of the area or more
    color         PCA lighting, per-pixel mean subtracted     none; normalized per channel
    mirror        yes                                         the same
    update        SGD, momentum 0.9, batch 256                the same; the rate scales with the batch
    rate          0.1, divided by 10 when the error plateaus  divided by 10 after 30, 60 and 90 epochs
    decay         1e-4 of all parameters                      1e-4 of kernels
    length        600,000 steps (about 120 epochs)            120 epochs
    strides       on the first 1x1 convolution of a block     on the 3x3 convolution, as in torchvision
    evaluation    10 crops                                    the center crop of the images, 10 % held out
Not expressed: the range of scales of the short side (the crop's area stands for it), PCA lighting, ten crops.
--schedule.name plateau --schedule.metric top1 divides the rate when validation does not improve.

Command:  python scripts/train.py resnet50_imagenet_he2015 --data.dir DIR_OR_ZIP
          at a reduced size, for 20 classes: --data.size 96 --model.input-size 96 --model.num-classes 20
          --train.epochs 12 --train.batch-size 64 --schedule.boundaries 3ep 6ep 9ep
Shows:    the recipe that made deep residual networks trainable
Device:   an accelerator; days at full size
Time:     not run at full size
Expected: not run; 77.15 % top-1 with 10 crops in the paper (table 3)
"""

from cnnjax import create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Schedule, Train

experiment = Experiment(
    model=create("resnet50"),
    data=Data(source="image_folder", size=224),
    augmentation=Augmentation(crop_area=0.22, flip=True),
    optimizer=Optimizer(name="momentum", lr=0.1, base_batch=256, momentum=0.9, weight_decay=1e-4),
    schedule=Schedule(name="step", boundaries=("30ep", "60ep", "90ep"), factor=0.1),
    train=Train(epochs=120, batch_size=256),
    early_stopping=EarlyStopping(metric="top1"),
)
