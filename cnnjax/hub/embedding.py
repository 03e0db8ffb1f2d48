"""Write a finished, recorded run as one of the networks in the package, with its model card."""

from pathlib import Path

from cnnjax.complexity import complexity
from cnnjax.errors import UserError
from cnnjax.hub import model_folder
from cnnjax.hub.loading import INCLUDED
from cnnjax.pretrained import OWN, Published, find
from cnnjax.runs import predictor
from cnnjax.runs.records import Record, compare, read_record, record_name
from cnnjax.system.files import remove

LICENSE = "mit"
DATA = {
    "lenet.fashion_mnist": "Fashion-MNIST (60,000 training and 10,000 test images)",
    "resnet20_cifar.cifar10_jpeg": "CIFAR-10 stored as JPEG files (50,000 training and 10,000 test images), which is "
    "harder than the original images",
}
"""What the networks of the package were trained on."""


def embed(run: Path, name: str, records: Path, folder: Path = INCLUDED) -> Path:
    """Write the best parameters of a run to the package as the network ``name``; return its folder.

    Args:
        run: the folder of a finished run.
        name: name of the network in the registry.
        records: experiments/records. The run must be recorded there, with exactly the same figures.
        folder: where the networks of the package are.

    Raises:
        UserError: the run is not recorded, or its figures differ from the record.
    """
    entry = find(name)
    if entry.source != OWN:
        raise UserError(f"{name} is published by {entry.source}; give the name of a network in the package")
    repeated = read_record(run)
    place = records / record_name(repeated.name) / f"seed-{repeated.experiment.seed}"
    if not place.is_dir():
        raise UserError(f"{run} is not recorded in {place}; record it first: python scripts/report.py --record {run}")
    recorded = read_record(place)
    compared = compare(recorded, repeated)
    if not compared.equal:
        raise UserError(f"{run} differs from its record: {compared.first}; give the recorded run")
    network = predictor.load(run)
    target = folder / name
    if target.is_dir():
        remove(target)
    model_folder.write(target, network, card(entry, network, recorded), record_entry(recorded))
    return target


def record_entry(recorded: Record) -> dict[str, object]:
    """Return what config.json says about the training."""
    results = {part: recorded.results[part] for part in ("validation", "test")}
    return {"license": LICENSE, "trained": {
        "record": recorded.name, "seed": recorded.experiment.seed, "data": recorded.experiment.data.source,
        "best_epoch": recorded.results["best_epoch"], "results": results,
    }}  # fmt: skip


def card(entry: Published, network: predictor.Predictor, recorded: Record) -> str:
    """Return the model card, README.md in the layout of the hub."""
    name, experiment, results = entry.name, recorded.experiment, recorded.results
    parts = recorded.name.split(",")
    command = " ".join([f"python scripts/train.py {parts[0]}", *(f"--{part.replace('=', ' ')}" for part in parts[1:])])
    rows = "\n".join(
        f"| {part} | {results[part]['images']:,} | {100 * results[part]['top1']:.2f} % "
        f"| {100 * results[part]['top5']:.2f} % | {results[part]['loss']:.4f} |"
        for part in ("train", "validation", "test")
    )
    return f"""---
license: {LICENSE}
library_name: cnnjax
pipeline_tag: image-classification
---
# {name}

{entry.variant} with {complexity(network.arch).parameters:,} parameters, trained from scratch by cnnjax on
{DATA[name]}. It is small, and meant for examples, tests and teaching.

```python
network = cnnjax.load_pretrained("{name}")
network.predict(["photo.jpg"])
```

- Classes: {", ".join(network.classes)}.
- Images: {network.preprocessing.describe()}.
- Training: `{command} --seed {experiment.seed}`; the parameters are those of epoch {results["best_epoch"]} of
  {results["epochs"]}, the best on the validation split.
- Record: `experiments/records/{recorded.name}/seed-{experiment.seed}`.
- License of the weights: MIT, as for cnnjax. It does not cover the images of the data set.

| split | images | top-1 | top-5 | loss |
|---|---:|---:|---:|---:|
{rows}
"""
