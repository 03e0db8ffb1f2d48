"""Parameters, multiply-adds and activations of each layer, computed from shapes without allocating anything.

A multiply-add (MAC) is one multiplication with its addition, for one image; convolutions and dense layers are counted,
as in the tables of torchvision and timm.
"""

import math
from typing import NamedTuple

from rich.table import Table

from cnnjax.functional import LayerCall, layer_calls
from cnnjax.models.layers import Arch


class LayerComplexity(NamedTuple):
    """One row of the summary; ``output_shape`` is that of one image, ``activations`` its number of values."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activations: int


class Complexity(NamedTuple):
    """The layers in the order of their calls."""

    layers: tuple[LayerComplexity, ...]

    @property
    def parameters(self) -> int:
        return sum({layer.name: layer.parameters for layer in self.layers}.values())

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def activations(self) -> int:
        """Values that convolutions and dense layers give out (Radosavovic et al. 2020, section 3.3)."""
        return sum(layer.activations for layer in self.layers if layer.multiply_adds)


def complexity(arch: Arch, image_shape: tuple[int, int, int] | None = None) -> Complexity:
    """Return the complexity of ``arch`` for one image (H, W, C); without a shape, for the size it was built for."""
    return Complexity(tuple(_row(call) for call in layer_calls(arch, image_shape)))


def _row(call: LayerCall) -> LayerComplexity:
    macs = 0
    if call.kernel_shape is not None:
        positions = math.prod(call.output_shape[:-1])  # of a dense layer: 1
        macs = positions * math.prod(call.kernel_shape)
    return LayerComplexity(
        call.name, call.kind, call.output_shape, call.parameters, macs, math.prod(call.output_shape)
    )  # fmt: skip


def summary_table(arch: Arch, title: str) -> Table:
    """Return the table that ``scripts/summary.py`` prints."""
    found = complexity(arch)
    table = Table(title=title, show_footer=True)
    shape = "x".join(map(str, arch.image_shape))
    table.add_column("layer", footer=f"input {shape}")
    table.add_column("kind", footer="total")
    table.add_column("output", justify="right")
    table.add_column("parameters", justify="right", footer=f"{found.parameters:,}")
    table.add_column("multiply-adds", justify="right", footer=f"{found.multiply_adds:,}")
    for layer in found.layers:
        output = "x".join(map(str, layer.output_shape))
        table.add_row(layer.name, layer.kind, output, f"{layer.parameters:,}", f"{layer.multiply_adds:,}")
    return table
