"""Comparison of an exported file with its network, in another process that does not import cnnjax."""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
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
def checked_file(out: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a temporary file to write; rename it to ``out`` if ``check`` accepts it, otherwise delete it.

    Raises:
        UserError: ``out`` exists, its folder does not, or the check fails.
    """
    if os.path.lexists(out) or not out.parent.is_dir():
        raise UserError(f"{out} exists, or its folder does not; give a new name in an existing folder")
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        check(temporary)
        sync_file(temporary)
        temporary.rename(out)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(out.parent)


def compare_logits(network: Predictor, reader: str, file: Path) -> None:
    """Raise UserError unless the logits that a program of `READERS` computes from the file equal the network's."""
    for count in BATCHES:
        images = example_images(network, count)
        expected, logits = network.logits(images), run_reader(reader, file, images, network.arch.dtype)[LOGITS]
        tolerance = TOLERANCE[network.arch.dtype]
        if logits.shape != expected.shape or not np.allclose(logits, expected, rtol=tolerance, atol=tolerance):
            raise UserError(
                f"the exported file was discarded: read again, its logits for {count} images differ from the network's "
                f"by more than {tolerance}; please report this with the network's config"
            )


def compare_tensors(tensors: Mapping[str, np.ndarray], reader: str, file: Path) -> None:
    """Raise UserError unless a program of `READERS` finds the given tensors in the file, bit for bit."""
    stored = run_reader(reader, file)
    wrong = [name for name, array in tensors.items() if name not in stored or not same_bits(stored[name], array)]
    if wrong or stored.keys() != tensors.keys():
        raise UserError("the exported file was discarded: read again, its tensors differ; please report this")


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()


def run_reader(
    reader: str, file: Path, images: np.ndarray | None = None, dtype: str = "float32"
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return what a program of `READERS` finds in a file, or computes with it from images, by name."""
    with tempfile.TemporaryDirectory(prefix="cnnjax-export-") as folder:
        given, result = Path(folder) / "images.npy", Path(folder) / "outputs.npz"
        if images is not None:
            np.save(given, images)
        paths = [str(path) for path in ((file, result) if images is None else (file, given, result))]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": str(int(dtype == "float64"))}
        command = [sys.executable, "-I", str(READERS / reader), *paths]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2][:200]
            raise UserError(f"the exported file was discarded, because it does not run: {reason}")
        with np.load(result) as outputs:
            return dict(outputs)
