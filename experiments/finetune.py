"""Any trained network, fine-tuned to your own images; the number of images decides what is trained.

Command:  python scripts/train.py finetune --init ORIGIN --data.source image_folder:DIR_OR_ZIP
          ORIGIN is run:RUN, or file:WEIGHTS with --model NAME
Shows:    transfer learning without choosing phases; the command prints what it chose and why
Device:   any; a head is trained in seconds once the embeddings of the images are computed
Time:     depends on the network and the images
Expected: depends on the network and the images
"""

from cnnjax import create
from cnnjax.config import Augmentation, Data, Experiment, Optimizer, Phase, Train

experiment = Experiment(
    model=create("resnet50", num_classes=0),  # --init run:RUN brings its own network; 0 classes: those of the data
    data=Data(source="image_folder"),
    augmentation=Augmentation(flip=True),
    optimizer=Optimizer(name="adam", lr=1e-3),
    train=Train(batch_size=16, eval_batch_size=64),
    phases=(Phase(train="auto"),),
)
