"""Layout of a whole network: stages in one to three columns, whichever gives the largest text on a page of a thesis."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from cnnjax.diagram.blocks import GAP, PADDING, Extent, Widths, measure, measure_block, place, place_block, widths
from cnnjax.diagram.structure import Series, Stage
from cnnjax.diagram.svg import MARGIN, Canvas, Point, text_width

PAGE = 425.0, 620.0
"""Width and height of the text area of an A4 page in points: 15 by 22 cm."""
LARGEST_SCALE = 0.8
"""Scale at which the text is as large as that of a caption, so that a larger one is no better."""
MOST_COLUMNS = 3
STAGE_GAP = 29
"""Height between two stages; it holds the shape, and the line to an auxiliary head."""
LAST_ARROW = 16
"""Length of the arrow after a head."""
HEAD_LINE = 19
"""Distance between a stage's end and the line to its auxiliary head."""
GUTTER = 14
HEADER = 60
"""Height of the title and the counts."""
COLUMN_COST = 0.06
"""Gain in scale that makes up for the longer connection of one more column."""


class Column(NamedTuple):
    """Stages one below the other, and the extents around their common axis."""

    stages: list[Stage]
    frame: Extent
    names: float
    aux: float

    @property
    def width(self) -> float:
        return self.names + self.frame.left + self.frame.right + self.aux


def draw_stages(canvas: Canvas, stages: list[Stage], input_shape: tuple[int, ...]) -> None:
    """Draw all stages below the header."""
    width = widths(stages)
    columns = best_columns(stages, width)
    left, top = float(MARGIN), float(HEADER)
    exit_point: Point | None = None
    reach = 0.0
    for number, column in enumerate(columns):
        x = left + column.names + column.frame.left
        y = top
        if exit_point is None:
            label = f"input {shape_text(input_shape)}"
            across = text_width(label) + 12
            canvas.rect(x - across / 2, y, across, 20, "input", 10)
            canvas.text(x, y + 14, label, "middle")
            canvas.line([(x, y + 20), (x, y + 20 + STAGE_GAP / 2)], arrow=False)
            y += 20 + STAGE_GAP / 2
        else:
            turn = left - GUTTER
            low = max(exit_point[1] + STAGE_GAP, reach + GUTTER)
            points = [exit_point, (exit_point[0], low), (turn, low), (turn, y), (x, y), (x, y + STAGE_GAP / 2)]
            canvas.line(points, arrow=False)
            y += STAGE_GAP / 2
        bottom, reach = _place_column(canvas, column, x, y, width, is_last=number == len(columns) - 1)
        exit_point = x, bottom
        left += column.width + 2 * GUTTER


def _place_column(
    canvas: Canvas, column: Column, x: float, y: float, width: Widths, *, is_last: bool
) -> tuple[float, float]:
    """Draw a column's stages from y on; return the end of the last stage and of the last auxiliary head."""
    bottom, aux_end = y, 0.0
    for stage in column.stages:
        if stage.aux:  # below the head of an earlier stage
            y = max(y, aux_end + GAP - HEAD_LINE - stage_height(stage, width))
        if y > bottom:
            canvas.line([(x, bottom), (x, y)], arrow=False)
        bottom = _place_stage(canvas, column, stage, x, y, width)
        canvas.text(x + 7, bottom + 13, shape_text(stage.shape), "dim")
        left = x + column.frame.right
        for head in stage.aux:
            aux_end = max(aux_end, _place_aux(canvas, head, (x, bottom), left, width))
            left += _aux_width(head[1], width)
        y = bottom + STAGE_GAP
    if is_last:
        canvas.line([(x, bottom), (x, bottom + LAST_ARROW)])
    return bottom, aux_end


def _place_stage(canvas: Canvas, column: Column, stage: Stage, x: float, y: float, width: Widths) -> float:
    height = stage_height(stage, width)
    canvas.rect(x - column.frame.left, y, column.frame.left + column.frame.right, height, "stage", 6)
    canvas.text(x - column.frame.left - 6, y + 13, stage.name, "dim end")
    bottom = y + height
    canvas.line([(x, y), (x, y + PADDING)], arrow=not stage.blocks[0].is_framed)
    y += PADDING
    for number, block in enumerate(stage.blocks):
        if number:
            canvas.line([(x, y), (x, y + GAP)], arrow=not block.is_framed)
            y += GAP
        y = place_block(canvas, block, x, y, width)
    canvas.line([(x, y), (x, bottom)], arrow=False)
    return bottom


def _place_aux(
    canvas: Canvas, head: tuple[str, Series], start: Point, left: float, width: Widths
) -> float:  # fmt: skip
    """Draw an auxiliary head to the right of ``left``, below the end of the stage that it reads; return its end."""
    (name, items), (x, bottom) = head, start
    extent = measure(items, "trunk", width)
    center = left + GUTTER + PADDING + extent.left
    level = bottom + HEAD_LINE
    top = level + GAP
    frame = extent.height + 2 * PADDING
    canvas.rect(center - extent.left - PADDING, top, extent.left + extent.right + 2 * PADDING, frame, "stage", 6)
    canvas.line([(x, level), (center, level), (center, top + PADDING)], "branch")
    canvas.text(center + 8, top - 4, name, "dim")
    end = place(canvas, items, center, top + PADDING, "trunk", width)
    canvas.line([(center, end), (center, end + PADDING + LAST_ARROW)])
    return end + PADDING + LAST_ARROW


def _aux_width(items: Series, width: Widths) -> float:
    extent = measure(items, "trunk", width)
    return extent.left + extent.right + 2 * PADDING + GUTTER


def stage_height(stage: Stage, width: Widths) -> float:
    heights = [measure_block(block, width).height for block in stage.blocks]
    return sum(heights) + GAP * (len(heights) - 1) + 2 * PADDING


def best_columns(stages: list[Stage], width: Widths) -> list[Column]:
    """Return the division into columns with the largest scale on the page."""

    def scale(columns: list[Column]) -> float:
        across = sum(column.width for column in columns) + 2 * GUTTER * (len(columns) - 1) + 2 * MARGIN
        down = max(_column_height(column, width) for column in columns)
        largest = min(PAGE[0] / across, PAGE[1] / (down + HEADER + 2 * STAGE_GAP), LARGEST_SCALE)
        return largest * (1 - COLUMN_COST * (len(columns) - 1))

    return max(_divisions(stages, width), key=scale)


def _column_height(column: Column, width: Widths) -> float:
    last = column.stages[-1].aux
    below = measure(last[-1][1], "trunk", width).height + STAGE_GAP if last else 0.0
    return sum(stage_height(stage, width) + STAGE_GAP for stage in column.stages) + below


def _divisions(stages: list[Stage], width: Widths) -> Iterator[list[Column]]:
    for count in range(MOST_COLUMNS):
        for chosen in itertools.combinations(range(1, len(stages)), count):
            bounds = [0, *chosen, len(stages)]
            yield [_column(stages[a:b], width) for a, b in itertools.pairwise(bounds)]


def _column(stages: list[Stage], width: Widths) -> Column:
    extents = [measure_block(block, width) for stage in stages for block in stage.blocks]
    frame = Extent(
        max(extent.left for extent in extents) + PADDING, max(extent.right for extent in extents) + PADDING, 0
    )
    aux = max(sum(_aux_width(items, width) for _, items in stage.aux) for stage in stages)
    shape = max(text_width(shape_text(stage.shape)) for stage in stages) + 12
    names = max(text_width(stage.name) for stage in stages) + 8
    return Column(stages, frame._replace(right=max(frame.right, shape)), names, aux)


def shape_text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
