"""The results of `parity.py`, their bounds, and docs/parity.md."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from cases import ALL, IMAGENET_SIZE, SIZES, XCEPTION_SIZES, Case
from peers import AUX_WEIGHT, versions

LARGEST_LOGITS, LARGEST_GRADIENTS, LARGEST_FLOAT32_GRADIENTS = 1e-4, 1e-6, 0.05


class Row(NamedTuple):
    """Largest errors of a variant, relative to the largest value of the compared array."""

    case: Case
    logits: float
    stages: float
    train_logits: float
    statistics: float | None
    """None for a network without norms."""
    gradients: float
    """In float64."""
    worst_gradient: str
    float32_gradients: float
    peer_rounding: float
    """Error of the peer's own float32 gradient, compared with its float64 gradient."""
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether all errors are within bounds. Rounding errors grow with depth, so --all checks only the logits."""
        forward = max(self.logits, self.stages, self.train_logits, self.statistics or 0.0)
        rounding = max(LARGEST_FLOAT32_GRADIENTS, 2 * self.peer_rounding)
        gradients = self.gradients < LARGEST_GRADIENTS and self.float32_gradients < rounding
        return forward < LARGEST_LOGITS and gradients


HEADINGS = {
    "logits": "logits",
    "stages": "stages",
    "train_logits": "logits, training",
    "statistics": "new statistics",
    "gradients": "gradients, float64",
    "float32_gradients": "gradients, float32",
    "peer_rounding": "float32, peer alone",
}


def write(path: Path, rows: Sequence[Row], counted: str, parameters: int, *, keep: bool) -> None:
    """Write docs/parity.md; if ``keep``, keep the old rows of other cases, which the same versions must have measured.

    ``counted`` is a network that is not run, with its number of parameters.
    """
    lines = {identity(line): line for line in map(table_line, rows)}
    if keep:
        old = path.read_text()
        assert versions_line() in old, f"{path} was written with other versions; run --all"
        lines = {identity(line): line for line in old.splitlines() if line.startswith("| ")} | lines
    names = [(case.name, case.source) for case in ALL]
    missing = [f"{name} ({source})" for name, source in names if (name, source) not in lines]
    note = f"\nNot measured: {', '.join(missing)}.\n" if missing else ""
    path.write_text(page([lines[name] for name in names if name in lines], counted, parameters) + note)


def identity(line: str) -> tuple[str, str]:
    """Return the name and the source in a line of the table."""
    name, source = line.strip("| ").split(" | ")[:2]
    return name, source


def table_line(row: Row) -> str:
    figures = (getattr(row, name) for name in HEADINGS)
    cells = [f"`{row.case.kind}`", *("" if error is None else f"{error:.1e}" for error in figures)]
    return f"| {' | '.join((row.case.name, row.case.source, *cells))} |"


def versions_line() -> str:
    packages = {"jax": version("jax"), "flax": version("flax"), **versions(), "keras": version("keras")}
    numbers = ", ".join(f"{name} {number}" for name, number in packages.items())
    return f"{numbers}, Python {platform.python_version()}, {platform.machine()}"


def page(lines: Sequence[str], counted: str, parameters: int) -> str:
    """Return docs/parity.md."""
    table = "\n".join((
        f"| {' | '.join(('variant', 'source', 'file', *HEADINGS.values()))} |",
        f"| {' | '.join(['---'] * 3 + ['---:'] * len(HEADINGS))} |",
        *lines,
    ))  # fmt: skip
    return f"""# Parity with other libraries

Written by `python tests/oracle/parity.py --all --write` (`make parity`) with
{versions_line()}, on the CPU in float32, unless stated otherwise.

For each row, the other library's network gets random weights and random statistics, is saved in the published file
format and converted by `cnnjax.convert`. Both networks then run on the same random images (batch 3, {sizes(SIZES)};
Xception {sizes(XCEPTION_SIZES)}; Keras's VGG, which takes no other size, {sizes(IMAGENET_SIZE)}), without dropout. The
figures are the largest differences, relative to the largest value of the compared array; 1e-7 is the precision of
float32. The comparison also writes the weights back and fails if names or bits differ from the file: as a state dict
for torchvision and timm, and in memory for Keras, whose files cnnjax does not write. {counted} is not run: it has
{parameters:,} parameters in both libraries.

- logits, stages: in evaluation mode, at all sizes. Stages are the activations of the stem and of each stage.
- logits, training, and new statistics: for one training batch. Logits include those of auxiliary heads, whose losses
  are weighted by {AUX_WEIGHT:g}; a network without norms has no statistics.
- gradients, float64: of the cross-entropy of that batch, computed by both networks in float64, for the worst parameter,
  relative to its own largest gradient. (Keras computes the mean over positions in float32.)
- gradients, float32: the norm of the difference of the whole gradients, relative to the norm of the gradient. Batch
  norms amplify rounding errors, and a unit within rounding error of ReLU's kink may take either of two gradients;
  networks of this depth have a few such units.
- float32, peer alone: the same norm for the peer's float32 gradient and its own float64 gradient.

`make oracle` checks one variant of each form: errors of less than {LARGEST_LOGITS:g} (logits, stages, training,
statistics), {LARGEST_GRADIENTS:g} (gradients in float64) and {LARGEST_FLOAT32_GRADIENTS:g} (whole gradient in
float32), or twice the peer's own rounding error if that is larger.
Rounding errors grow with depth: for the deepest networks, only the logits in evaluation mode are held to that bound.

{table}
"""


def sizes(pairs: tuple[tuple[int, int], ...]) -> str:
    return " and ".join(f"{height}x{width}" for height, width in pairs)
