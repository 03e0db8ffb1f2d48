"""A network as a drawing shows it: stages of blocks, parallel branches, repeats folded, auxiliary heads aside."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cnnjax.diagram.dataflow import HEAD, Dataflow, Node, ancestors, common_ancestor
from cnnjax.errors import UserError
from cnnjax.functional import Path


class Box(NamedTuple):
    """One layer."""

    label: str
    role: str


class Parallel(NamedTuple):
    """Branches that read the same value and are joined by ``merge``; an empty branch is the value itself."""

    merge: str
    branches: tuple["Series", ...]


Series = tuple[Box | Parallel, ...]
"""Items that follow each other."""


class Block(NamedTuple):
    """A block of a stage, or a single layer of it, that occurs ``times`` times in a row."""

    items: Series
    times: int
    is_framed: bool


class Stage(NamedTuple):
    """A stage of the network; ``shape`` is that of its output for one image. ``aux`` are heads that read the output."""

    name: str
    blocks: tuple[Block, ...]
    shape: tuple[int, ...]
    aux: tuple[tuple[str, Series], ...] = ()


class _Item(NamedTuple):
    content: Box | Parallel
    node: int


def find_structure(graph: Dataflow) -> list[Stage]:
    """Return the stages from the first to the head."""
    nodes, (logits, *heads) = graph.nodes, graph.outputs
    trunk = ancestors(nodes, logits)
    aux: dict[str, list[tuple[str, Series]]] = {}
    for head in heads:
        start = max(ancestors(nodes, head) & trunk)
        name = str(nodes[head].path[0]) if nodes[head].path else nodes[head].label
        aux.setdefault(nodes[start].stage, []).append(
            (name, tuple(item.content for item in _chain(nodes, head, start)))
        )
    stages = []
    for name, group in itertools.groupby(_chain(nodes, logits, 0), lambda item: nodes[item.node].stage):
        items = list(group)
        shape = nodes[items[-1].node].shape
        stages.append(Stage(name, tuple(_blocks(nodes, items)), shape, tuple(aux.get(name, ()))))
    return stages


def _chain(nodes: list[Node], end: int, start: int) -> list[_Item]:
    """Return the items between two nodes; the first node is excluded, the last one included."""
    items = []
    while end != start:
        if end < start:
            raise UserError(
                f"this network cannot be drawn: {nodes[start].label!r} is read from more than one place; give a "
                "network whose layers form a sequence, possibly with branches that join again"
            )
        node = nodes[end]
        if len(node.inputs) == 1:
            items.append(_Item(Box(node.label, node.role), end))
            end = node.inputs[0]
        else:
            fork = common_ancestor(nodes, node.inputs)
            branches = (tuple(item.content for item in _chain(nodes, each, fork)) for each in node.inputs)
            items.append(_Item(Parallel(node.label, tuple(branches)), end))
            end = fork
    return items[::-1]


def _blocks(nodes: list[Node], items: Sequence[_Item]) -> Iterator[Block]:
    """Return the blocks of a stage, with equal neighbors folded."""
    found: list[tuple[Series, tuple[int, ...]]] = []
    numbers = itertools.count()
    for _, group in itertools.groupby(items, lambda item: _block_of(nodes, item.node) or (next(numbers),)):
        members = list(group)
        found.append((tuple(item.content for item in members), nodes[members[-1].node].shape))
    for (content, _), equal in itertools.groupby(found):
        is_framed = len(content) > 1 or isinstance(content[0], Parallel)
        yield Block(content, len(list(equal)), is_framed)


def _block_of(nodes: list[Node], number: int) -> Path | None:
    """Return the place of a node's block in its stage, such as ("stage1", 0), or None without one.

    Joins have no place of their own; they belong to the block of what they join.
    """
    node = nodes[number]
    if not node.path and node.role == "merge":
        return _block_of(nodes, max(node.inputs))
    depth = next((depth for depth, part in enumerate(node.path) if isinstance(part, int)), None)
    return None if depth is None or node.stage == HEAD else node.path[: depth + 1]
