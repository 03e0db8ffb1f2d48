"""A drawing of a network as SVG, computed from its definition: stages, blocks, branches, shortcuts and heads."""

from pathlib import Path

from cnnjax.complexity import complexity
from cnnjax.diagram.dataflow import dataflow
from cnnjax.diagram.page import draw_stages
from cnnjax.diagram.structure import find_structure
from cnnjax.diagram.svg import MARGIN, TITLE_SIZE, Canvas
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables
from cnnjax.models.layers import Arch
from cnnjax.system.files import write_bytes

KEY = {
    " conv, ": "3×3\u00a0conv,\u00a064: a convolution with 64 output channels.",
    "concatenate": "In columns, 3×3,\u00a064 is a convolution too, and 3×3\u00a0max is max pooling.",
    " /2": "/2: stride 2.",
    '"count"': "×\u00a02: two such blocks or layers in a row.",
}
"""Explanations of what occurs in a drawing."""


def write_diagram(arch: Arch, title: str, path: Path) -> None:
    """Write the drawing of a network to an .svg file, atomically."""
    if path.suffix != ".svg" or path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path} cannot be written; give a name that ends in .svg, in an existing folder")
    write_bytes(path, draw(arch, title).encode())


def draw(arch: Arch, title: str) -> str:
    """Return the SVG of a network for images of its size, without allocating any array."""
    counts = complexity(arch)
    canvas = Canvas()
    canvas.text(MARGIN, 22, title, "title", TITLE_SIZE)
    canvas.text(MARGIN, 38, f"{counts.parameters:,} parameters, {_rounded(counts.multiply_adds)} multiply-adds", "dim")
    draw_stages(canvas, find_structure(dataflow(arch)), arch.image_shape)
    norms = (
        "Batch normalization, activation functions" if abstract_variables(arch).batch_stats else "Activation functions"
    )
    drawn = "".join(canvas.parts)
    key = [text for mark, text in KEY.items() if mark in drawn]
    note = " ".join([*key, "[H,\u00a0W,\u00a0C]: shape between stages.", f"{norms} and dropout are not drawn."])
    canvas.paragraph(note, "dim")
    return canvas.svg(title, note)


def _rounded(number: int) -> str:
    for factor, unit in ((1e9, " G"), (1e6, " M")):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:,}"
