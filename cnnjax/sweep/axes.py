"""The axes of a sweep: grids, options that change together, random draws, and conditions.

    sweep = Sweep(axes=(
        grid("model.activation", ("relu", "sigmoid")),
        zipped({"optimizer.name": ("adam", "sgd"), "optimizer.lr": (1e-3, 1e-1)}),
        grid("optimizer.clip_norm", (None, 1.0), when={"optimizer.name": ("sgd",)}),
        grid("seed", range(3)),
    ))

A sweep is the product of its axes. An option is the dotted name of any field of an experiment, or ``model`` with the
name of a variant, as in ``scripts/train.py --model``.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnnjax.errors import UserError, choose, listed, quoted, require

PREFIX = "sweep_"
"""Prefix of the files of published sweeps, which `scripts/sweep.py` names without it."""
MOST_MEMBERS = 10_000
"""Maximum members of a sweep."""
DIGITS = 4
"""Significant digits of drawn and log-spaced numbers, so that they can be read and typed."""
DESIGN_SPACE = "design_space"
"""Option that only labels a member with the design space of its network; see `cnnjax.sweep.networks`."""
Condition = tuple[str, tuple[Any, ...]]
"""An option of an earlier axis, and the values for which a later axis applies."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """A list of points; each point sets one value for each of the options.

    Where a condition in ``when`` does not hold, the axis does not apply, and the experiment keeps its own values.
    """

    options: tuple[str, ...]
    points: tuple[tuple[Any, ...], ...]
    when: tuple[Condition, ...] = ()
    drawn: bool = False
    """Whether the points were drawn at random; such points are ranked, not compared with each other."""

    @property
    def name(self) -> str:
        """The options, separated by commas."""
        return ", ".join(self.options)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Return whether the axis applies to a member with these values of the earlier axes."""
        return all(option in values and values[option] in allowed for option, allowed in self.when)


def grid(option: str, values: Iterable[Any], *, when: Mapping[str, Sequence[Any]] | None = None) -> Axis:
    """Return the axis that gives an option each of the values.

    Args:
        option: the dotted name of any field of an experiment, such as ``"optimizer.lr"``, or ``"model"``.
        values: text, numbers, True, False, None or tuples of them; for ``"model"``, names of variants.
        when: values of earlier axes for which this axis applies; elsewhere the experiment keeps its own value.

    Raises:
        UserError: there is no value.

    Example:
        >>> grid("optimizer.momentum", (0.8, 0.9), when={"optimizer.name": ("sgd", "momentum")}).points
        ((0.8,), (0.9,))
    """
    return zipped({option: tuple(values)}, when=when)


def zipped(options: Mapping[str, Sequence[Any]], *, when: Mapping[str, Sequence[Any]] | None = None) -> Axis:
    """Return the axis of options that change together: its first point holds the first value of each, and so on.

    Args:
        options: equally many values for each option; names and values as in `grid`.
        when: as in `grid`.

    Raises:
        UserError: the options have different numbers of values, or none.

    Example:
        >>> zipped({"optimizer.name": ("adam", "sgd"), "optimizer.lr": (1e-3, 1e-1)}).points
        (('adam', 0.001), ('sgd', 0.1))
    """
    lengths = {len(values) for values in options.values()}
    require(len(lengths) == 1 and 0 not in lengths, f"values of {listed(options)}", list(options.values()),
            "equally many for each option, one or more")  # fmt: skip
    columns = [[tuple(value) if isinstance(value, list) else value for value in values] for values in options.values()]
    return Axis(tuple(options), tuple(zip(*columns, strict=True)), _conditions(when))


class Uniform(NamedTuple):
    """A number drawn uniformly from [low, high), to four significant digits.

    Example:
        >>> drawn(2, {"train.label_smoothing": Uniform(0, 0.2)}).options
        ('train.label_smoothing',)
    """

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> Any:
        return _short(rng.uniform(self.low, self.high))


class LogUniform(NamedTuple):
    """A positive number whose logarithm is drawn uniformly from [log low, log high), to four significant digits.

    Example:
        >>> [(rate,)] = drawn(1, {"optimizer.lr": LogUniform(1e-4, 1e-1)}).points
        >>> 1e-4 <= rate < 1e-1
        True
    """

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> Any:
        return _short(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))


class Choice(NamedTuple):
    """One of some values, each equally likely.

    Example:
        >>> sorted(drawn(2, {"model.pooling": Choice(("avg", "max"))}).points)
        [('avg',), ('max',)]
    """

    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]


def drawn(
    count: int, options: Mapping[str, Uniform | LogUniform | Choice], *, seed: int = 0,
    when: Mapping[str, Sequence[Any]] | None = None,
) -> Axis:  # fmt: skip
    """Return an axis of ``count`` random points; the same arguments draw the same points, each different.

    Args:
        count: number of points, 1 or more.
        options: the distribution of each option.
        seed: seed of the draws.
        when: as in `grid`.

    Raises:
        UserError: the distributions have fewer than ``count`` different points.

    Example:
        >>> axis = drawn(5, {"optimizer.lr": LogUniform(1e-4, 1e-1), "model.pooling": Choice(("avg", "max"))})
        >>> len(set(axis.points))
        5
    """
    rng = np.random.default_rng([seed, 0x5EE9])
    points: dict[tuple[Any, ...], None] = {}
    for _ in range(100 * count):
        points[tuple(distribution.draw(rng) for distribution in options.values())] = None
        if len(points) == count:
            return Axis(tuple(options), tuple(points), _conditions(when), drawn=True)
    raise UserError(f"{count} different points of {listed(options)} are asked for, and {len(points)} were drawn; ask "
                    "for fewer")  # fmt: skip


def log_grid(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return ``count`` numbers from ``low`` to ``high`` whose logarithms are evenly spaced, to four significant digits.

    Raises:
        UserError: ``low`` is not between 0 and ``high``, or ``count`` is below 2.

    Example:
        >>> log_grid(1e-3, 1e-1, 3)
        (0.001, 0.01, 0.1)
    """
    require(0 < low < high and count >= 2, "log_grid", (low, high, count), "0 < low < high, and a count of 2 or more")
    return tuple(_short(value) for value in np.geomspace(low, high, count))


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _conditions(when: Mapping[str, Sequence[Any]] | None) -> tuple[Condition, ...]:
    return tuple((option, tuple(values)) for option, values in (when or {}).items())


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The axes of a sweep; their product gives the members.

    Two axes may set the same option if their conditions exclude each other.

    Raises:
        UserError: an option or a point appears twice, or a condition names no value of an earlier axis.

    Example:
        >>> sweep = Sweep(axes=(grid("model.pooling", ("avg", "max")), grid("seed", range(3))))
        >>> len(sweep.combinations())
        6
    """

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        require(len(self.axes) > 0, "the axes of the sweep", self.axes, "one or more")
        known: dict[str, set[str]] = {}
        unconditional: set[str] = set()
        for axis in self.axes:
            for option in axis.options:
                if option in known and (not axis.when or option in unconditional):
                    raise UserError(
                        f"the sweep has two axes for {option}; give one, or conditions that exclude the other"
                    )
            unconditional.update(() if axis.when else axis.options)
            for value in itertools.chain.from_iterable(axis.points):
                rule = "text, a number, True, False, None or a tuple of them; model takes the name of a variant"
                require(is_plain(value), f"a value of {axis.name}", value, rule)
            if len(set(axis.points)) < len(axis.points):
                twice = next(point for point in axis.points if axis.points.count(point) > 1)
                raise UserError(f"axis {axis.name} has the point {quoted(twice)} twice; give it once")
            for option, values in axis.when:
                choose(f"condition of {axis.name} on", option, known)
                for value in values:
                    choose(f"value of {option} in a condition of {axis.name}", label(value), known[option])
            for option, values in zip(axis.options, zip(*axis.points, strict=True), strict=True):
                known.setdefault(option, set()).update(map(label, values))
        count = math.prod(len(axis.points) for axis in self.axes)
        require(count <= MOST_MEMBERS, "the number of members", count, f"at most {MOST_MEMBERS:,}")

    def combinations(self) -> list[dict[str, Any]]:
        """Return the values of each member by option, without those of axes that do not apply to it."""
        combinations: dict[tuple[tuple[str, Any], ...], None] = {}
        for points in itertools.product(*(axis.points for axis in self.axes)):
            values: dict[str, Any] = {}
            for axis, point in zip(self.axes, points, strict=True):
                if axis.applies(values):
                    if twice := sorted(values.keys() & set(axis.options)):
                        raise UserError(
                            f"two axes set {twice[0]} of one member; give them conditions that exclude each other"
                        )
                    values.update(zip(axis.options, point, strict=True))
            combinations[tuple(values.items())] = None
        return [dict(values) for values in combinations]


def is_plain(value: Any) -> bool:
    """Return whether a value is text, a number, True, False, None, or a tuple of them."""
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float)


def label(value: Any) -> str:
    """Return a value as the text that names it in tables and on the command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "+".join(map(label, value))
    return str(value)
