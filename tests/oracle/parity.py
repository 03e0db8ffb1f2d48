"""Measure the difference between our networks and those of other libraries, with the same weights and statistics.

    python tests/oracle/parity.py                  one size of each form
    python tests/oracle/parity.py --all            every variant with published weights
    python tests/oracle/parity.py --all --write    the same, written to docs/parity.md
    python tests/oracle/parity.py 'vgg*' --write   some variants, whose rows in docs/parity.md are replaced

For each row, the peer gets random weights and statistics, is saved in a published format, converted, and run on random
images (batch 3). The converted weights are then written back in the publisher's format.
"""

import argparse
import fnmatch
import functools
import gc
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import optax
from cases import ALL, COUNTED, ONE_OF_EACH_FORM, Case
from keras_peer import KerasPeer
from parity_page import LARGEST_LOGITS, Row, write
from peers import AUX_WEIGHT, TorchPeer, random_images, torchvision
from safetensors.numpy import load_file

import cnnjax
from cnnjax import Variables, create
from cnnjax.complexity import complexity
from cnnjax.convert import load_weights, save_weights, source_of
from cnnjax.convert.rules import from_variables
from cnnjax.convert.weight_files import open_tensors
from cnnjax.models.layers import Arch
from cnnjax.models.regularization import Dropout

jax.config.update("jax_disable_most_optimizations", False)  # tests/conftest.py turns them off

RECORD = Path(__file__).resolve().parents[2] / "docs" / "parity.md"
LARGEST_FILE = 2**34


@functools.partial(jax.jit, static_argnames="arch")
def logits_and_stages(arch: Arch, variables: Variables, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return logits and stage activations in evaluation mode."""
    return cnnjax.apply(arch, variables, images)[0].logits, cnnjax.features(arch, variables, images)


def measure(case: Case) -> Row:
    """Compare one variant with its peer."""
    started = time.perf_counter()
    peer, arch = case.peer(), case.arch
    with tempfile.TemporaryDirectory() as folder:
        file = peer.save(Path(folder), case.kind)
        variables = load_weights(arch, case.source, file)
        check_round_trip(arch, case.source, variables, file)
    logits, stages = 0.0, 0.0
    for size in case.sizes:
        images = random_images(*size, seed=0)
        theirs, their_stages = peer.logits_and_stages(images)
        ours, our_stages = logits_and_stages(arch, variables, images)
        assert np.isfinite(theirs).all() and spread(theirs) > 0.1, f"the peer's logits are too similar: {theirs}"
        logits = max(logits, error(ours, theirs))
        assert our_stages.keys() == their_stages.keys()
        stages = max(stages, *(error(our_stages[stage], their_stages[stage]) for stage in our_stages))
    images, labels = random_images(*case.sizes[0], seed=0), np.array([1, 2, 3])
    table = source_of(arch, case.source).table
    expected, (outputs, batch_stats, grads) = peer.train(images, labels), train(arch, variables, images, labels)
    heads = zip((outputs.logits, *outputs.aux), expected.outputs, strict=True)
    by_name = from_variables(table, Variables(grads, batch_stats))
    assert by_name.keys() == expected.statistics.keys() | expected.gradients.keys()
    ours, theirs = exact_gradients(case, peer, variables, images, labels)
    errors = gradient_errors(ours, theirs)
    worst = max(errors, key=errors.get)
    return Row(
        case, logits, stages, max(error(*pair) for pair in heads),
        max((error(by_name[name], value) for name, value in expected.statistics.items()), default=None),
        errors[worst], worst, whole_gradient_error(by_name, expected.gradients),
        whole_gradient_error(expected.gradients, theirs), time.perf_counter() - started,
    )  # fmt: skip


def exact_gradients(
    case: Case, peer: TorchPeer | KerasPeer, variables: Variables, images: np.ndarray, labels: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return both networks' gradients by the peer's names, computed in float64."""
    with jax.enable_x64(True):
        images = images.astype(np.float64)
        theirs = peer.train(images, labels).gradients
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        _, batch_stats, grads = train(case.arch.replace(dtype="float64"), variables, images, labels)
        ours = from_variables(source_of(case.arch, case.source).table, Variables(grads, batch_stats))
    assert all(array.dtype == np.float64 for array in (*ours.values(), *theirs.values()))
    return ours, theirs


def check_round_trip(arch: Arch, source: str, variables: Variables, file: Path) -> None:
    """Check that the weights written back have the names and the bits of the publisher's file."""
    publisher = source_of(arch, source)
    written = from_variables(publisher.table, variables)
    if publisher.writes:
        save_weights(arch, variables, source, file.parent / "back.safetensors")
        written = load_file(file.parent / "back.safetensors")
    with open_tensors(file, LARGEST_FILE) as original:
        ignored = {name for pattern in publisher.table.ignored for name in fnmatch.filter(original.shapes, pattern)}
        assert written.keys() == original.shapes.keys() - ignored
        for name, array in written.items():
            assert np.array_equal(array, original.read(name)), name


def train(arch: Arch, variables: Variables, images: np.ndarray, labels: np.ndarray):
    """Return outputs, new statistics and the gradients of the mean cross-entropy of a batch, without dropout."""

    def loss(params):
        outputs, batch_stats = cnnjax.apply(arch, variables._replace(params=params), images, train=True)
        heads = ((1.0, outputs.logits), *((AUX_WEIGHT, logits) for logits in outputs.aux))
        losses = (w * optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean() for w, logits in heads)
        return sum(losses), (outputs, batch_stats)

    with mock.patch.object(Dropout, "__call__", lambda self, x, rngs=None: x):
        (_, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)
    return *aux, grads


def gradient_errors(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Return each parameter's error relative to its own largest gradient.

    The gradient of a bias before a norm is only rounding: if both are below a billionth of the largest gradient, the
    error is 0.
    """
    negligible = 1e-9 * max(np.abs(value).max() for value in theirs.values())
    return {
        name: 0.0 if max(np.abs(value).max(), np.abs(ours[name]).max()) < negligible else error(ours[name], value)
        for name, value in theirs.items()
    }


def whole_gradient_error(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
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


def check_count(variant: str) -> int:
    """Return the number of parameters that torchvision publishes for a network; ours has the same number."""
    published = next(iter(torchvision.models.get_model_weights(variant))).meta["num_params"]
    assert complexity(create(variant)).parameters == published
    return published


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", help="shell patterns of variants")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    chosen = [case for case in ALL if any(fnmatch.fnmatch(case.variant, pattern) for pattern in options.patterns)]
    rows, failed, count = [], False, check_count(COUNTED)
    for case in ALL if options.all else chosen or ONE_OF_EACH_FORM:
        try:
            rows.append(measure(case))
        except AssertionError as error:
            failed = True
            print(f"{case}: {error!r}", flush=True)
            continue
        print(rows[-1], "" if rows[-1].agrees else "BEYOND THE BOUNDS OF `make oracle`", flush=True)
        if options.write:
            write(RECORD, rows, COUNTED, count, keep=not options.all)
        jax.clear_caches()
        gc.collect()
    sys.exit(1 if failed or any(row.logits >= LARGEST_LOGITS for row in rows) else 0)


if __name__ == "__main__":
    main()
