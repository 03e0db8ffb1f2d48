"""The graph of a network: its layers, and what each of them reads, from a trace of its forward pass.

The network is traced to a jaxpr in evaluation mode. Markers (`jax.ad_checkpoint.checkpoint_name`, an identity) show
where a layer starts and ends. Every other operation belongs to the value that it transforms, unless it joins two values
that come from different layers: such an operation (a sum, a concatenation) is a node of its own, and so is pooling by a
function. Norms and activations are therefore part of the layer before them.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from cnnjax.diagram.labels import MERGES, label_layer, label_pool, role_of
from cnnjax.functional import Call, Path, kind_of, observed_network
from cnnjax.models.blocks import SeparableConv, SqueezeExcite
from cnnjax.models.layers import Arch, BatchNorm

HEAD = "head"
"""Name of the part of a network after its last stage."""


@dataclasses.dataclass
class Node:
    """A layer, or a join of several values; ``inputs`` are the numbers of the nodes that it reads.

    Shapes are those of one image. ``path`` is the layer's place in the module, or empty.
    """

    label: str
    role: str
    stage: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    path: Path = ()


@dataclasses.dataclass
class Dataflow:
    """Nodes in order of execution, the first of which is the input; outputs are the logits, then auxiliary logits."""

    nodes: list[Node]
    outputs: list[int]


@dataclasses.dataclass
class _Layer:
    path: Path
    label: str = ""
    role: str = ""
    is_identity: bool = False


def dataflow(arch: Arch) -> Dataflow:
    """Return the graph of ``arch`` for one image of its size, without allocating any array."""
    layers: list[_Layer] = []

    def observe(path: Path, layer: Any, call: Call, x: jax.Array) -> Any:
        if isinstance(layer, BatchNorm):
            return call(x)
        number = len(layers)
        layers.append(record := _Layer(path))
        marked = checkpoint_name(x, f"enter {number}")
        output = call(marked)
        if output is None or output is marked:
            record.is_identity = True
            return output if output is None else x
        kind = kind_of(layer)
        record.label, record.role = label_layer(kind, layer, x.shape, output.shape), role_of(kind)
        return checkpoint_name(output, f"leave {number}")

    def run(images: jax.Array) -> Any:
        module = observed_network(arch, observe, whole=(SqueezeExcite, SeparableConv))
        x, features = images, {}
        for name, stage, stage_layers in module.stages():
            features[name] = x = stage(*stage_layers, checkpoint_name(x, f"stage {name}"), None)
        return module.classify({name: checkpoint_name(x, f"stage {HEAD}") for name, x in features.items()})

    images = jax.ShapeDtypeStruct((1, *arch.image_shape), arch.dtype)
    program = jax.make_jaxpr(run)(images).jaxpr
    walk = _Walk(layers, arch.image_shape)
    walk.origins[program.invars[0]] = 0
    for equation in program.eqns:
        walk.step(equation)
    return Dataflow(walk.nodes, [walk.origins[output] for output in program.outvars])


class _Walk:
    """A walk over the operations of a program, which assigns to every value the node that it comes from."""

    def __init__(self, layers: list[_Layer], image_shape: tuple[int, ...]):
        self.layers = layers
        self.nodes = [Node("input", "input", "", (), image_shape)]
        self.origins: dict[Any, int] = {}
        self.stage = ""
        self.inside: int | None = None
        self.pools: dict[int, int] = {}

    def step(self, equation: Any) -> None:
        values = (value for value in equation.invars if not isinstance(value, Literal))
        inputs = list(dict.fromkeys(self.origins[value] for value in values if value in self.origins))
        if not inputs:  # of parameters and constants only
            return
        output = equation.outvars[0].aval.shape[1:]
        node = self.node(equation, inputs, output)
        for value in equation.outvars:
            self.origins[value] = node

    def node(self, equation: Any, inputs: list[int], shape: tuple[int, ...]) -> int:
        word, _, name = (
            str(equation.params["name"]).partition(" ") if equation.primitive.name == "name" else ("", "", "")
        )
        if word == "stage":
            self.stage = name
        if word in ("enter", "leave") and not (layer := self.layers[int(name)]).is_identity:
            if word == "enter":
                self.inside = self.add(Node(layer.label, layer.role, self.stage, tuple(inputs), shape, layer.path))
                return self.inside
            node, self.inside = inputs[0], None
            self.nodes[node].shape = shape
            return node
        pools = "pooling" in str(equation.source_info.name_stack) and self.inside is None
        if pools:
            return self.pool(equation, inputs, shape)
        self.pools = {source: pool for source, pool in self.pools.items() if pool not in inputs}
        if equation.params.get("name") == "_resize":  # jax.image.resize
            return self.add(Node(f"resize to {shape[0]}×{shape[1]}", "other", self.stage, tuple(inputs), shape))
        if len(inputs) == 1:
            return inputs[0]
        return self.join(equation, inputs, shape)

    def join(self, equation: Any, inputs: list[int], shape: tuple[int, ...]) -> int:
        operation = equation.primitive.name
        node = self.add(Node(MERGES.get(operation, operation), "merge", self.stage, tuple(inputs), shape))
        if self.inside is not None:
            self.inside = node
        return node

    def pool(self, equation: Any, inputs: list[int], shape: tuple[int, ...]) -> int:
        """Return the node of a pooling function; its operations read the pooled value or each other."""
        open_pools = [node for node in inputs if node in self.pools.values()]
        if open_pools:
            node = open_pools[0]
        elif (node := self.pools.get(inputs[0], -1)) < 0:
            node = self.add(Node("", "pool", self.stage, tuple(inputs), shape))
            self.pools[inputs[0]] = node
        pool = self.nodes[node]
        pool.shape = shape
        averages = pool.label.startswith(("average", "global")) or equation.primitive.name == "reduce_sum"
        pool.label = label_pool(averages, self.nodes[pool.inputs[0]].shape, shape)
        return node

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1


def ancestors(nodes: list[Node], number: int) -> set[int]:
    """Return a node and all nodes that it depends on."""
    seen: set[int] = set()
    waiting = [number]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(nodes[node].inputs)
    return seen


def common_ancestor(nodes: list[Node], numbers: Iterable[int]) -> int:
    """Return the last node that all of the given nodes depend on."""
    return max(set.intersection(*(ancestors(nodes, number) for number in numbers)))
