"""Layout of what is inside a stage: boxes one below the other, parallel branches side by side, shortcuts at the side.

Everything is drawn around a vertical axis, along which the data flows down. An `Extent` is measured before anything is
placed.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from cnnjax.diagram.labels import shortened
from cnnjax.diagram.structure import Block, Box, Parallel, Series, Stage
from cnnjax.diagram.svg import Canvas, text_width

BOX_HEIGHT = 19
BAR_HEIGHT = 16
"""Height of the bar where branches are concatenated."""
GAP = 10
"""Height of the arrow between two boxes."""
FORK = 14
"""Height between the point where a value is read by several branches and their first boxes."""
COLUMN_GAP = 6
LANE_GAP = 12
"""Distance between boxes and the shortcut beside them."""
RADIUS = 7
"""Radius of the circle of a sum or a product."""
PADDING = 7
"""Distance between a block's frame and its content."""


class Extent(NamedTuple):
    """Size of an item: to the left and to the right of its axis, and its height."""

    left: float
    right: float
    height: float


Lane = Literal["trunk", "side", "column"]
"""Where boxes are: on the trunk, on a shortcut beside it, or in a column of concatenated branches."""


class Widths(NamedTuple):
    """Widths of the boxes of a diagram, by lane."""

    trunk: float
    side: float
    column: float

    def of(self, lane: Lane) -> float:
        width: float = getattr(self, lane)
        return width


def widths(stages: list[Stage]) -> Widths:
    """Return the widths that fit all labels."""
    needed: dict[Lane, list[float]] = {"trunk": [60.0], "side": [40.0], "column": [40.0]}
    for stage in stages:
        for series in (*(block.items for block in stage.blocks), *(items for _, items in stage.aux)):
            for box, lane in _boxes(series, "trunk"):
                needed[lane].append(text_width(text(box, lane)) + (8 if lane == "column" else 10))
    return Widths(*(max(values) for values in needed.values()))


def text(box: Box, lane: Lane) -> str:
    return shortened(box.label) if lane == "column" else box.label


def _boxes(series: Series, lane: Lane) -> Iterator[tuple[Box, Lane]]:
    for item in series:
        if isinstance(item, Box):
            yield item, lane
        elif joins_columns(item):
            for branch in item.branches:
                yield from _boxes(branch, "column")
        else:
            trunk, *sides = trunk_first(item)
            yield from _boxes(trunk, lane)
            for side in sides:
                yield from _boxes(side, "side")


def joins_columns(item: Parallel) -> bool:
    """Whether the branches are drawn as columns; otherwise the longest is the trunk, and the others are shortcuts."""
    return item.merge not in ("+", "×")


def measure_block(block: Block, width: Widths) -> Extent:
    left, right, height = measure(block.items, "trunk", width)
    if block.is_framed:
        left, right, height = left + PADDING, right + PADDING, height + 2 * PADDING
    count = text_width(f"× {block.times}") + 10 if block.times > 1 else 0
    return Extent(left, right + count, height)


def place_block(canvas: Canvas, block: Block, x: float, y: float, width: Widths) -> float:
    """Draw a block below y; return the y of its end."""
    left, right, height = measure(block.items, "trunk", width)
    if block.is_framed:
        left, right, height = left + PADDING, right + PADDING, height + 2 * PADDING
        canvas.rect(x - left, y, left + right, height, "block", 6)
        canvas.line([(x, y), (x, y + PADDING)], arrow=isinstance(block.items[0], Box))
        end = place(canvas, block.items, x, y + PADDING, "trunk", width)
        canvas.line([(x, end), (x, y + height)], arrow=False)
    else:
        place(canvas, block.items, x, y, "trunk", width)
    if block.times > 1:
        canvas.text(x + right + 6, y + height / 2 + 4, f"× {block.times}", "count")
    return y + height


def measure(series: Series, lane: Lane, width: Widths) -> Extent:
    """Return the extent of items one below the other, in a lane."""
    extents = [_measure_item(item, lane, width) for item in series]
    if not extents:
        return Extent(0, 0, 0)
    height = sum(extent.height for extent in extents) + GAP * (len(extents) - 1)
    return Extent(max(extent.left for extent in extents), max(extent.right for extent in extents), height)


def place(canvas: Canvas, series: Series, x: float, y: float, lane: Lane, width: Widths) -> float:
    """Draw items one below the other around x, starting at y; return the y of the end."""
    for number, item in enumerate(series):
        if number:
            canvas.line([(x, y), (x, y + GAP)], arrow=isinstance(item, Box))
            y += GAP
        if isinstance(item, Box):
            canvas.rect(x - width.of(lane) / 2, y, width.of(lane), BOX_HEIGHT, item.role)
            canvas.text(x, y + BOX_HEIGHT / 2 + 4, text(item, lane), "middle")
            y += BOX_HEIGHT
        elif joins_columns(item):
            y = _place_columns(canvas, item, x, y, width)
        else:
            y = _place_sum(canvas, item, x, y, lane, width)
    return y


def _measure_item(item: Box | Parallel, lane: Lane, width: Widths) -> Extent:
    if isinstance(item, Box):
        return Extent(width.of(lane) / 2, width.of(lane) / 2, BOX_HEIGHT)
    if joins_columns(item):
        columns = _columns(item, width)
        across = sum(extent.left + extent.right for extent in columns) + COLUMN_GAP * (len(columns) - 1)
        height = max(extent.height for extent in columns)
        return Extent(across / 2, across / 2, FORK + height + GAP + BAR_HEIGHT)
    trunk_items, *side_items = trunk_first(item)
    trunk = measure(trunk_items, lane, width)
    sides = [measure(side, "side", width) for side in side_items]
    return Extent(
        max(trunk.left, RADIUS),
        max(trunk.right, RADIUS) + sum(LANE_GAP + side.left + side.right for side in sides),
        FORK + trunk.height + GAP + 2 * RADIUS,
    )


def _columns(item: Parallel, width: Widths) -> list[Extent]:
    extents = (measure(branch, "column", width) for branch in item.branches)
    return [Extent(max(extent.left, 10), max(extent.right, 10), extent.height) for extent in extents]


def trunk_first(item: Parallel) -> list[Series]:
    """Return the branches, the longest first."""
    return sorted(item.branches, key=len, reverse=True)


def _place_columns(canvas: Canvas, item: Parallel, x: float, y: float, width: Widths) -> float:
    columns, extent = _columns(item, width), _measure_item(item, "column", width)
    bar = y + extent.height - BAR_HEIGHT
    canvas.line([(x, y), (x, y + FORK / 4)], arrow=False)
    left = x - extent.left
    for branch, column in zip(item.branches, columns, strict=True):
        center = left + column.left
        start = y + FORK if branch else bar
        if abs(center - x) < 1:
            canvas.line([(x, y), (x, start)], "branch")
        else:
            canvas.line([(x, y + FORK / 4), (center, y + FORK / 4), (center, start)], "branch")
        if branch:
            end = place(canvas, branch, center, start, "column", width)
            canvas.line([(center, end), (center, bar)])
        left += column.left + column.right + COLUMN_GAP
    canvas.rect(x - extent.left, bar, extent.left + extent.right, BAR_HEIGHT, "merge")
    canvas.text(x, bar + BAR_HEIGHT / 2 + 4, item.merge, "middle")
    return bar + BAR_HEIGHT


def _place_sum(canvas: Canvas, item: Parallel, x: float, y: float, lane: Lane, width: Widths) -> float:
    trunk, *sides = trunk_first(item)
    extent = measure(trunk, lane, width)
    canvas.line([(x, y), (x, y + FORK)])
    end = place(canvas, trunk, x, y + FORK, lane, width)
    center = end + GAP + RADIUS
    canvas.line([(x, end), (x, center - RADIUS)])
    right = x + max(extent.right, RADIUS)
    for side in sides:
        size = measure(side, "side", width)
        at = right + LANE_GAP + size.left
        if side:
            top = (y + center - size.height) / 2
            canvas.line([(x, y + 3), (at, y + 3), (at, top)], "shortcut")
            bottom = place(canvas, side, at, top, "side", width)
            canvas.line([(at, bottom), (at, center), (x + RADIUS, center)], "shortcut end")
        else:
            canvas.line([(x, y + 3), (at, y + 3), (at, center), (x + RADIUS, center)], "shortcut")
        right = at + size.right
    canvas.rect(x - RADIUS, center - RADIUS, 2 * RADIUS, 2 * RADIUS, "merge", RADIUS)
    canvas.text(x, center + 4, item.merge, "middle")
    return center + RADIUS
