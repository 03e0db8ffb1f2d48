"""Comparison of an exported file with its network, in another process that does not import cnnjax."""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cnnjax.errors import UserError
from cnnjax.export.program import LOGITS, example_images
from cnnjax.runs.predictor import Predictor
from cnnjax.system.files import sync_file, sync_folder

READERS = Path(__file__).parent / "readers"
BATCHES = (1, 5)
"""Batch sizes at which an exported program runs."""
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 5e-2}
"""Maximum difference of a logit by dtype, absolute or relative; bfloat16 has 8 bits of precision."""


@contextlib.contextmanager
def checked_file(network: Predictor, out: Path, reader: str) -> Iterator[Path]:
    """Yield a temporary file to write; rename it to ``out`` if the program ``reader`` computes the same logits from it.

    Raises:
        UserError: ``out`` exists or its folder does not, or the logits differ.
    """
    if os.path.lexists(out) or not out.parent.is_dir():
        raise UserError(f"{out} exists, or its folder does not; give a new name in an existing folder")
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        compare(network, temporary, reader)
        sync_file(temporary)
        temporary.rename(out)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(out.parent)


def compare(network: Predictor, file: Path, reader: str) -> None:
    """Raise UserError unless the logits of an exported file equal the network's."""
    for count in BATCHES:
        images = example_images(network, count)
        expected = network.logits(images)
        logits = outputs_of(file, reader, images, network.arch.dtype)[LOGITS]
        tolerance = TOLERANCE[network.arch.dtype]
        if logits.shape != expected.shape or not np.allclose(logits, expected, rtol=tolerance, atol=tolerance):
            raise UserError(
                f"the exported file was discarded: read again, its logits for {count} images differ from the network's "
                f"by up to {largest_difference(logits, expected)}; please report this with the network's config"
            )


def largest_difference(logits: np.ndarray, expected: np.ndarray) -> float | str:
    return float(np.abs(logits - expected).max()) if logits.shape == expected.shape else f"their shape {logits.shape}"


def outputs_of(file: Path, reader: str, images: np.ndarray, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Return the outputs of an exported file by name, computed by a program of `READERS` in another process."""
    with tempfile.TemporaryDirectory(prefix="cnnjax-export-") as folder:
        given, result = Path(folder) / "images.npy", Path(folder) / "outputs.npz"
        np.save(given, images)
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": str(int(dtype == "float64"))}
        command = [sys.executable, "-I", str(READERS / reader), str(file), str(given), str(result)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2][:200]
            raise UserError(f"the exported file was discarded, because it does not run: {reason}")
        with np.load(result) as outputs:
            return dict(outputs)
