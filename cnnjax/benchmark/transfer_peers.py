"""The measured programs of `scripts/benchmark.py transfer`: a new head for Xception on a folder of photos.

Each runs in its own process and prints its seconds, from reading the photos to the trained head, with the time in which
programs are compiled and without the imports; its peak memory; and its accuracy on the training photos, as a check.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.benchmark import machine

RATE, DROPOUT = 1e-3, 0.2
"""Learning rate of Adam, and the dropout of Keras's guide."""


class Job(NamedTuple):
    """What every library does."""

    folder: str
    """Photos as train/CLASS/FILE."""
    weights: str
    """Folder with the backbone's parameters as a run, for timm and for Keras; see `transfer.convert`."""
    size: int
    batch: int
    epochs: int


def cnnjax(job: Job) -> Callable[[], float]:
    """Embed the photos once, then train the head with the fit loop."""
    import dataclasses

    from cnnjax import data
    from cnnjax.config import Data, Experiment, Optimizer, Train
    from cnnjax.functional import embedding_size
    from cnnjax.models.heads import head_alone, without_head
    from cnnjax.runs import predictor
    from cnnjax.runs.origin import resized
    from cnnjax.training.evaluation import predict_logits
    from cnnjax.training.loop import fit
    from cnnjax.transfer.embeddings import Embedder

    def run() -> float:
        network = predictor.load(Path(job.weights) / "run")
        preprocessing = resized(network.preprocessing, job.size)
        dataset = data.load(Data(source="image_folder", dir=job.folder), like=preprocessing, divide=False)
        body = without_head(network.arch).replace(input_size=job.size)
        train = Embedder(body, network.variables, preprocessing).embedded(dataset.train)
        few = train.take(np.arange(min(job.batch, len(train.labels))))  # the loop evaluates after each epoch
        embedded = dataclasses.replace(
            dataset, train=train, validation=few, test=few, preprocessing=data.Embedded()
        )  # fmt: skip
        head = head_alone(network.arch.replace(num_classes=len(dataset.classes)), embedding_size(body))
        experiment = Experiment(
            model=head, optimizer=Optimizer(name="adam", lr=RATE), train=Train(epochs=job.epochs, batch_size=job.batch)
        )
        state = fit(experiment, embedded).snapshot.state
        logits = predict_logits(head, embedded.preprocessing, state.variables, train, job.batch)
        return float((logits.argmax(axis=1) == train.labels).mean())

    return run


def torch(job: Job) -> Callable[[], float]:
    """Compute the features once with timm's network, then train a linear layer."""
    import torch
    from safetensors.torch import load_file

    from cnnjax.benchmark.torch_networks import import_torchvision

    import_torchvision()
    import timm
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    def run() -> float:
        model = timm.create_model("legacy_xception", num_classes=0)
        model.load_state_dict(load_file(Path(job.weights) / "timm.safetensors"), strict=False)
        model.eval()
        resize = [v2.Resize((job.size, job.size), antialias=True), v2.PILToTensor(), v2.ToDtype(torch.float32, True)]
        photos = ImageFolder(Path(job.folder) / "train", v2.Compose([*resize, v2.Normalize([0.5] * 3, [0.5] * 3)]))
        loader = torch.utils.data.DataLoader(photos, 64, num_workers=0)
        with torch.no_grad():
            batches = [(model(images), labels) for images, labels in loader]
        features, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        head = torch.nn.Linear(features.shape[1], len(photos.classes))
        optimizer = torch.optim.Adam(head.parameters(), RATE)
        for _ in range(job.epochs):
            order = torch.randperm(len(labels))
            for start in range(0, len(labels) - job.batch + 1, job.batch):
                picked = order[start : start + job.batch]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(head(features[picked]), labels[picked]).backward()
                optimizer.step()
        return float((head(features).argmax(1) == labels).float().mean())

    return run


def keras(job: Job) -> Callable[[], float]:
    """Train the head through the frozen network in every epoch, as Keras's guide to transfer learning does."""
    import keras

    def run() -> float:
        folders = sorted(path for path in (Path(job.folder) / "train").iterdir() if path.is_dir())
        files = [(path, label) for label, folder in enumerate(folders) for path in sorted(folder.iterdir())]
        size = (job.size, job.size)
        photos = np.stack([keras.utils.img_to_array(keras.utils.load_img(path, target_size=size)) for path, _ in files])
        labels = np.array([label for _, label in files], np.float32)
        base = keras.applications.Xception(weights=None, include_top=False, input_shape=(job.size, job.size, 3))
        with np.load(Path(job.weights) / "keras.npz") as arrays:
            for layer in base.layers:
                for variable in layer.weights:
                    variable.assign(arrays[f"{layer.name}/{variable.name}"])
        base.trainable = False
        inputs = keras.Input((job.size, job.size, 3))
        x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
        x = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(DROPOUT)(x)))
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        accuracy = keras.metrics.BinaryAccuracy(threshold=0.0)
        model.compile(keras.optimizers.Adam(RATE), loss, metrics=[accuracy])
        history = model.fit(photos, labels, batch_size=job.batch, epochs=job.epochs, verbose=0)
        return float(history.history["binary_accuracy"][-1])

    return run


PEERS: dict[str, Callable[[Job], Callable[[], float]]] = {"cnnjax": cnnjax, "torch": torch, "keras": keras}


def main(name: str, job: dict[str, Any]) -> None:
    """Run one program and print its figures."""
    run = PEERS[name](Job(**job))
    started = time.perf_counter()
    accuracy = run()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_bytes": machine.peak_memory(), "accuracy": accuracy}))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
