"""Xception, trained on ImageNet, transferred to cats and dogs: first a new head, then the last stages, then all.

The five steps of transfer learning: take the layers of a trained network, freeze them, put a new head on top, train it
on the new data, then unfreeze the last stages and finally everything at a very low rate.

Command:  python scripts/train.py transfer_cats_dogs --init file:keras:WEIGHTS --data.dir DIR_OR_ZIP
          --data.per-class 50 uses 50 photos a class, --phases 1 trains only the head, and --phases 0 without --init
          trains from scratch
Shows:    how well ImageNet features work with few photos, and what unfreezing adds
Device:   any; the head alone takes minutes on 2 CPU cores; training more stages is faster on an accelerator
Time:     the head alone: 2 to 3 min on 2 busy CPU cores, nearly all of it for the embeddings of the photos
Expected: the head alone: 91.4, 95.0, 96.4 and 96.7 % with 10, 50, 200 and 600 photos a class (mean of three draws)
"""

from cnnjax import create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Phase, Schedule, Train

flipped = Augmentation(flip=True)
experiment = Experiment(
    model=create("xception", num_classes=2, input_size=150),
    data=Data(source="image_folder"),
    optimizer=Optimizer(name="adam", lr=1e-3),
    schedule=Schedule(name="cosine"),
    early_stopping=EarlyStopping(metric="last"),  # 10 photos a class leave 2 for validation
    train=Train(epochs=30, batch_size=16, eval_batch_size=64),
    phases=(
        Phase(train="head", epochs=20, lr=1e-3),
        Phase(train="stages:2", epochs=3, lr=1e-4, augmentation=flipped),
        Phase(train="all", epochs=3, lr=1e-5, layer_decay=0.7, augmentation=flipped),
    ),
)
