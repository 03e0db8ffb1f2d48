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
    """One row of the summary; ``output_shape`` and its number of values, ``activations``, are for one image.

    Example:
        >>> from cnnjax import create
        >>> row = complexity(create("lenet")).layers[0]
        >>> row.name, row.kind, row.output_shape, row.parameters
        ('conv1', 'Conv', (28, 28, 6), 156)
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activations: int


class Complexity(NamedTuple):
    """Layers in the order of their calls, with totals.

    Example:
        >>> from cnnjax import create
        >>> counts = complexity(create("lenet"))
        >>> counts.parameters, counts.multiply_adds, counts.activations
        (61706, 416520, 6518)
    """

    layers: tuple[LayerComplexity, ...]

    @property
    def parameters(self) -> int:
        """Number of trainable parameters; a layer that is called several times counts once."""
        return sum({layer.name: layer.parameters for layer in self.layers}.values())

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of convolutions and dense layers, for one image."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def activations(self) -> int:
        """Number of output values of convolutions and dense layers (Radosavovic et al. 2020, section 3.3)."""
        return sum(layer.activations for layer in self.layers if layer.multiply_adds)


def complexity(arch: Arch, image_shape: tuple[int, int, int] | None = None) -> Complexity:
    """Return the complexity of ``arch`` for one image, from shapes alone.

    Args:
        arch: the model definition.
        image_shape: (H, W, C) of the image; by default that of ``arch``.

    Raises:
        UserError: the network does not accept images of this shape.

    Example:
        >>> from cnnjax import create
        >>> complexity(create("resnet18")).multiply_adds / 1e9  # as in torchvision's table: 1.814
        1.814073344
    """
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
    """Return the table printed by ``scripts/summary.py``: one row for each layer, with totals in the footer.

    Example:
        >>> from cnnjax import create
        >>> summary_table(create("lenet"), "LeNet-5").row_count
        8
    """
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
