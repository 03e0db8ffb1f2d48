"""The collective operations of a compiled program, read from its text."""

import re
from typing import NamedTuple

import numpy as np

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "collective-broadcast")
LINE = re.compile(rf"= (?P<shapes>.*?) (?P<kind>{'|'.join(COLLECTIVES)})(-start)?\(")
SHAPE = re.compile(r"(?P<dtype>[a-z]+\d*)\[(?P<sizes>[\d,]*)\]")


class Collective(NamedTuple):
    """An operation, and the dtype and shape of each array that it returns."""

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def sizes(self) -> list[int]:
        """Number of values in each array."""
        return [int(np.prod(shape)) for _, shape in self.arrays]


def collectives(program: str) -> list[Collective]:
    """Return the collectives in the text of a compiled program."""
    found = []
    for line in program.splitlines():
        if match := LINE.search(line):
            shapes = SHAPE.finditer(match["shapes"])
            arrays = tuple((s["dtype"], tuple(int(n) for n in s["sizes"].split(",") if n)) for s in shapes)
            found.append(Collective(match["kind"], arrays))
    return found
