"""Parameters, multiply-adds and activations of each layer, computed from shapes without allocating any array.

A multiply-add (MAC) is one multiplication and one addition, for one image. Only convolutions and dense layers are
counted, as in the tables of torchvision and timm.
"""

import math
from typing import NamedTuple

from rich.table import Table

from cnnjax.functional import LayerCall, layer_calls
from cnnjax.models.layers import Arch


class LayerComplexity(NamedTuple):
    """One row of the summary; ``output_shape`` and its number of values, ``activations``, are for one image."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activations: int


class Complexity(NamedTuple):
    """Layers in the order of their calls, with totals."""

    layers: tuple[LayerComplexity, ...]

    @property
    def parameters(self) -> int:
        return sum({layer.name: layer.parameters for layer in self.layers}.values())

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def activations(self) -> int:
        """Number of output values of convolutions and dense layers (Radosavovic et al. 2020, section 3.3)."""
        return sum(layer.activations for layer in self.layers if layer.multiply_adds)


def complexity(arch: Arch, image_shape: tuple[int, int, int] | None = None) -> Complexity:
    """Return the complexity of ``arch`` for one image (H, W, C), by default of the size in ``arch``."""
    return Complexity(tuple(_row(call) for call in layer_calls(arch, image_shape)))


def _row(call: LayerCall) -> LayerComplexity:
    macs = 0
    if call.kernel_shape is not None:
        positions = math.prod(call.output_shape[:-1])  # 1 for a dense layer
        macs = positions * math.prod(call.kernel_shape)
    return LayerComplexity(
        call.name, call.kind, call.output_shape, call.parameters, macs, math.prod(call.output_shape)
    )  # fmt: skip


def summary_table(arch: Arch, title: str) -> Table:
    """Return the table printed by ``scripts/summary.py``."""
    totals = complexity(arch)
    table = Table(title=title, show_footer=True)
    shape = "x".join(map(str, arch.image_shape))
    table.add_column("layer", footer=f"input {shape}")
    table.add_column("kind", footer="total")
    table.add_column("output", justify="right")
    table.add_column("parameters", justify="right", footer=f"{totals.parameters:,}")
    table.add_column("multiply-adds", justify="right", footer=f"{totals.multiply_adds:,}")
    for layer in totals.layers:
        output = "x".join(map(str, layer.output_shape))
        table.add_row(layer.name, layer.kind, output, f"{layer.parameters:,}", f"{layer.multiply_adds:,}")
    return table
