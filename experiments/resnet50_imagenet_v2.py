"""ResNet-50 on ImageNet by torchvision's newer recipe (ResNet50_Weights.IMAGENET1K_V2), or on any folder of photos.

Source: Vryniotis 2021, "How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives", and the command in
torchvision's references/classification/README.md.

    part               published                                       here
    length, batch      600 epochs of 1,024                             the same; the rate scales with the batch
    update             SGD, momentum 0.9                               the same
    rate               0.5; 5 epochs of warmup from 0.005, cosine      warmup from 0
    labels             smoothed by 0.1                                 the same
    mixing             mixup 0.2 or CutMix 1.0, one per batch          the same
    augmentation       TrivialAugment, mirror, erasing 0.1             the same; erasing fills with the mean color
    decay              2e-5, not of norms                              2e-5 of kernels, not of the head's bias
    average            0.99998, adapted, every 32 steps                0.999966 in each step, which decays as fast
    training crops     176x176, 8 % of the area or more                the same
    evaluation         224x224 from a short side of 232                176x176 from a short side of 176
    sampling           each image 4 times per epoch, in different      each image once
                       augmentations (repeated augmentation)
Not expressed: another size for evaluation than for training, repeated augmentation.

Command:  python scripts/train.py resnet50_imagenet_v2 --data.dir DIR_OR_ZIP
          at a reduced size, for 20 classes: --data.size 96 --model.input-size 96 --model.num-classes 20
          --train.epochs 30 --train.batch-size 64 --train.ema-decay 0.998
Shows:    what a longer training with stronger augmentation adds to the same network
Device:   an accelerator; weeks at full size
Time:     not run at full size
Expected: not run; 80.86 % top-1 published
"""

from cnnjax import create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Schedule, Train

experiment = Experiment(
    model=create("resnet50", input_size=176),
    data=Data(source="image_folder", size=176),
    augmentation=Augmentation(
        crop_area=0.08, flip=True, auto_augment="trivialaugment", erase=0.1, mixup=0.2, cutmix=1.0
    ),
    optimizer=Optimizer(name="momentum", lr=0.5, base_batch=1024, momentum=0.9, weight_decay=2e-5),
    schedule=Schedule(name="warmup_cosine", warmup="5ep"),
    train=Train(epochs=600, batch_size=1024, label_smoothing=0.1, ema_decay=0.999966),
    early_stopping=EarlyStopping(metric="top1"),
)
