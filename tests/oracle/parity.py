"""Measure the difference between our networks and those of other libraries, with the same weights and statistics.

    python tests/oracle/parity.py              one size of each form
    python tests/oracle/parity.py --all        every ResNet variant that torchvision, timm or Keras has
    python tests/oracle/parity.py --all --write    the same, written to docs/parity.md

For each row, the peer gets random weights and statistics, is saved in a published format, converted, and run on random
images (batch 3) of two sizes.
"""

import argparse
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from peers import KerasPeer, TorchPeer, random_images, versions

import cnnjax
from cnnjax import Variables, create
from cnnjax.convert import load_weights, source_of
from cnnjax.convert.rules import from_variables

jax.config.update("jax_disable_most_optimizations", False)  # tests/conftest.py turns them off

RECORD = Path(__file__).resolve().parents[2] / "docs" / "parity.md"
SIZES = ((64, 96), (75, 75))
"""Image sizes, one not square, one odd."""
LARGEST_LOGITS, LARGEST_GRADIENTS, LARGEST_RELU_GRADIENTS = 1e-4, 1e-3, 0.05

TORCH = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
KERAS = {
    "resnet50_v1": "ResNet50", "resnet101_v1": "ResNet101", "resnet152_v1": "ResNet152",
    "resnet50_v2": "ResNet50V2", "resnet101_v2": "ResNet101V2", "resnet152_v2": "ResNet152V2",
}  # fmt: skip
ALL = (
    *((name, "torchvision", ".pth") for name in TORCH),
    *((name, "timm", ".safetensors") for name in TORCH),
    *((name, "keras", ".h5") for name in KERAS),
)
"""ResNet variants with each publisher and its file format."""
ONE_OF_EACH_FORM = (
    ("resnet18", "torchvision", ".pth"),
    ("resnet50", "timm", ".safetensors"),
    ("resnext50_32x4d", "torchvision", ".safetensors"),
    ("wide_resnet50_2", "timm", ".pth"),
    ("resnet50_v1", "keras", ".h5"),
    ("resnet50_v2", "keras", ".h5"),
)

apply = jax.jit(cnnjax.apply, static_argnames=("arch", "train"))
features = jax.jit(cnnjax.features, static_argnames="arch")


class Row(NamedTuple):
    """Largest errors of a variant, relative to the largest value of the compared array."""

    variant: str
    source: str
    kind: str
    logits: float
    stages: float
    train_logits: float
    statistics: float
    gradients: float
    worst_gradient: str
    relu_gradients: float
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether all errors are within bounds. Rounding errors grow with depth, so --all checks only the logits."""
        forward = max(self.logits, self.stages, self.train_logits, self.statistics)
        gradients = self.gradients < LARGEST_GRADIENTS and self.relu_gradients < LARGEST_RELU_GRADIENTS
        return forward < LARGEST_LOGITS and gradients


def make_peer(variant: str, source: str):
    """Return the peer of a variant, with random weights and statistics."""
    return KerasPeer(KERAS[variant]) if source == "keras" else TorchPeer(source, variant)


def measure(variant: str, source: str, kind: str) -> Row:
    """Compare one variant with its peer."""
    started = time.perf_counter()
    peer, arch = make_peer(variant, source), create(variant)
    with tempfile.TemporaryDirectory() as folder:
        variables = load_weights(arch, source, peer.save(Path(folder), kind))
    logits, stages = 0.0, 0.0
    for size in SIZES:
        images = random_images(*size, seed=0)
        theirs, their_stages = peer.logits_and_stages(images)
        assert np.isfinite(theirs).all() and spread(theirs) > 0.1, f"the peer's logits are too similar: {theirs}"
        logits = max(logits, error(apply(arch, variables, images)[0].logits, theirs))
        ours = features(arch, variables, images)
        assert ours.keys() == their_stages.keys()
        stages = max(stages, *(error(ours[stage], their_stages[stage]) for stage in ours))
    images, labels = random_images(*SIZES[0], seed=0), np.array([1, 2, 3])
    table = source_of(arch, source).table
    expected, (train_logits, batch_stats, grads) = peer.train(images, labels), train(arch, variables, images, labels)
    by_name = from_variables(table, Variables(grads, batch_stats))
    peer.make_smooth()
    smooth = peer.train(images, labels).gradients
    grads = train(arch.replace(activation="silu"), variables, images, labels)[2]
    errors = gradient_errors(from_variables(table, Variables(grads, batch_stats)), smooth)
    worst = max(errors, key=errors.get)
    return Row(
        variant, source, kind, logits, stages, error(train_logits, expected.logits),
        max(error(by_name[name], value) for name, value in expected.statistics.items()), errors[worst], worst,
        relu_gradient_error(by_name, expected.gradients), time.perf_counter() - started,
    )  # fmt: skip


def train(arch, variables, images, labels):
    """Return logits, new statistics and the gradients of the mean cross-entropy of a batch."""

    def loss(params):
        outputs, batch_stats = cnnjax.apply(arch, variables._replace(params=params), images, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
        return losses.mean(), (outputs.logits, batch_stats)

    (_, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)
    return *aux, grads


def gradient_errors(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Return each parameter's error relative to its own largest gradient.

    The gradient of a bias before a norm is only rounding: if both are below a millionth of the largest gradient, the
    error is 0.
    """
    negligible = 1e-6 * max(np.abs(value).max() for value in theirs.values())
    return {
        name: 0.0 if max(np.abs(value).max(), np.abs(ours[name]).max()) < negligible else error(ours[name], value)
        for name, value in theirs.items()
    }


def relu_gradient_error(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Return the norm of the difference of the whole gradients, relative to the norm of the gradient."""
    difference = sum(float(np.square(ours[name] - value).sum()) for name, value in theirs.items())
    return (difference / sum(float(np.square(value).sum()) for value in theirs.values())) ** 0.5


def error(ours, theirs: np.ndarray) -> float:
    """Return the largest difference relative to the largest value."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    assert np.isfinite(ours).all() and np.isfinite(theirs).all(), "not finite"
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def spread(logits: np.ndarray) -> float:
    """Return the largest difference between the images' logits, relative to the largest logit."""
    return float(np.ptp(logits, axis=0).max() / np.abs(logits).max())


HEADINGS = {
    "logits": "logits",
    "stages": "stages",
    "train_logits": "logits, training",
    "statistics": "new statistics",
    "gradients": "gradients, silu",
    "relu_gradients": "gradients, ReLU",
}


def page(rows: list[Row]) -> str:
    """Return docs/parity.md."""
    system = f"Python {platform.python_version()}, {platform.machine()}"
    packages = {name: version(name) for name in ("jax", "flax")} | versions()
    versions_text = ", ".join(f"{name} {number}" for name, number in packages.items())
    table = [["variant", "source", "file", *HEADINGS.values()], ["---"] * 3 + ["---:"] * len(HEADINGS)]
    table += [
        [row.variant, row.source, f"`{row.kind}`", *(f"{getattr(row, name):.1e}" for name in HEADINGS)] for row in rows
    ]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    return f"""# Parity with other libraries

Written by `python tests/oracle/parity.py --all --write` (`make parity`) with
{versions_text}, {system}, on the CPU in float32.

For each row, the other library's network gets random weights and random statistics, is saved in the published file
format and converted by `cnnjax.convert`. Both networks then run on the same random images (batch 3,
{" and ".join(f"{height}x{width}" for height, width in SIZES)}). The figures are the largest differences, relative
to the largest value of the compared array; 1e-7 is the precision of float32.

- logits, stages: in evaluation mode, at both sizes. Stages are the activations of the stem and of each stage.
- logits, training, and new statistics: for one training batch.
- gradients, silu: of the cross-entropy of that batch, for the worst parameter, relative to its own largest gradient.
  Both networks use silu instead of ReLU: a unit within rounding error of ReLU's kink may take either of two gradients,
  and networks of this depth have a few such units.
- gradients, ReLU: with the original ReLU, the norm of the difference of the whole gradients, relative to the norm of
  the gradient.

`make oracle` checks one variant of each form: errors of less than {LARGEST_LOGITS:g} (logits, stages, training,
statistics) and {LARGEST_GRADIENTS:g} (gradients, silu), and {LARGEST_RELU_GRADIENTS:g} for the whole ReLU gradient.
Rounding errors grow with depth: for the deepest networks, only the logits in evaluation mode are held to that bound.

{lines}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = []
    for case in ALL if options.all else ONE_OF_EACH_FORM:
        rows.append(measure(*case))
        print(rows[-1], flush=True)
        jax.clear_caches()
    if options.write:
        RECORD.write_text(page(rows))
    sys.exit(0 if all(row.logits < LARGEST_LOGITS for row in rows) else 1)


if __name__ == "__main__":
    main()
