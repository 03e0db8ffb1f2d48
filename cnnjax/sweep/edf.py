"""Design spaces compared by the error EDF: the share of their networks with at most each test error.

Source: Radosavovic et al. 2020, "Designing Network Design Spaces", section 3.1, equation 1. The band around each curve
is ours: its half-width is a quantile of the largest deviation of the EDFs of bootstrap samples from that of all
networks, so a band holds at every error at once. The bands of all spaces of a sweep hold jointly with a probability of
95 % (Bonferroni). Two spaces differ if their bands are disjoint at some error.
"""

import itertools
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnnjax.errors import counted
from cnnjax.sweep.axes import DESIGN_SPACE
from cnnjax.sweep.statistics import CONFIDENCE, Axes, percent
from cnnjax.sweep.table import Row

RESAMPLES = 2000
"""Bootstrap samples of each space."""
DIVERGED = 100.0
"""Test error of a network that diverged, in percent."""


class Edf(NamedTuple):
    """The error EDF of a design space."""

    space: str
    errors: tuple[float, ...]
    """Test error of each network in percent, ascending; with several seeds, their mean."""
    half: float
    """Half-width of the band, as a share."""

    def share(self, error: float) -> float:
        """Return the share of networks with at most this error."""
        return sum(value <= error for value in self.errors) / len(self.errors)

    def band(self, error: float) -> tuple[float, float]:
        """Return the ends of the band at an error."""
        share = self.share(error)
        return max(0.0, share - self.half), min(1.0, share + self.half)


def edfs(axes: Axes, rows: Sequence[Row]) -> list[Edf]:
    """Return the EDF of each design space; an empty list if the sweep has no axis of them.

    Networks with a member that is not trained yet are left out.
    """
    axis = next((number for number, options in enumerate(axes.options) if DESIGN_SPACE in options), None)
    if axis is None:
        return []
    networks: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        networks.setdefault(axes.labels(row), []).append(row)
    errors: dict[str, list[float]] = {}
    for members in networks.values():
        values = errors.setdefault(str(members[0].values[DESIGN_SPACE]), [])
        if all(row.finished or row.status == "diverged" for row in members):
            values.append(statistics.fmean(100 - percent(row) if row.finished else DIVERGED for row in members))
    known = {space: sorted(values) for space, values in errors.items() if values}
    return [Edf(space, tuple(values), band_half(values, len(known))) for space, values in known.items()]


def band_half(errors: Sequence[float], bands: int = 1) -> float:
    """Return the half-width of the bootstrap band around an EDF, as one of several bands that hold jointly."""
    values, counts = np.unique(errors, return_counts=True)
    samples = np.random.default_rng(0).multinomial(len(errors), counts / len(errors), RESAMPLES)
    deviations = np.abs(np.cumsum(samples - counts, axis=1)).max(axis=1) / len(errors)
    return float(np.quantile(deviations, 1 - (1 - CONFIDENCE) / bands))


def edf_sentences(curves: Sequence[Edf]) -> list[str]:
    """Return one plain sentence for each two spaces."""
    return [f"{DESIGN_SPACE}: {_sentence(a, b)}." for a, b in itertools.combinations(curves, 2)]


def _sentence(a: Edf, b: Edf) -> str:
    ends = [_widest(a, b), _widest(b, a)]
    parts = [_difference(*order, error) for order, (gap, error) in zip(((a, b), (b, a)), ends, strict=True) if gap > 0]
    return "; ".join(parts) or (
        f"no difference found between {a.space} and {b.space}, because their bands overlap at every error "
        f"({_sizes(a, b)})"
    )


def _widest(upper: Edf, lower: Edf) -> tuple[float, float]:
    """Return the largest gap from the upper end of one band to the lower end of another above it, and its error."""
    gaps = {error: upper.band(error)[0] - lower.band(error)[1] for error in upper.errors}
    error = max(gaps, key=lambda error: (gaps[error], -error))
    return gaps[error], error


def _difference(better: Edf, worse: Edf, error: float) -> str:
    return (
        f"{better.space} over {worse.space}: {_share(better, error)} of its networks have a test error of at most "
        f"{error:.2f} %, against {_share(worse, error)} ({_sizes(better, worse)})"
    )


def _share(curve: Edf, error: float) -> str:
    low, high = curve.band(error)
    return f"{100 * curve.share(error):.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _sizes(*curves: Edf) -> str:
    sizes = {len(curve.errors) for curve in curves}
    if len(sizes) == 1:
        return f"{counted(sizes.pop(), 'network')} each"
    return " and ".join(counted(len(curve.errors), "network") for curve in curves)


def edf_rows(curves: Sequence[Edf]) -> list[tuple[str, ...]]:
    """Return a row for each space: name, networks, and its best, median and mean test error."""
    return [
        (
            curve.space, str(len(curve.errors)),
            *(f"{value:.2f} %" for value in (curve.errors[0], statistics.median(curve.errors),
                                             statistics.fmean(curve.errors))),
        )
        for curve in curves
    ]  # fmt: skip


EDF_HEADER = ("design space", "networks", "best test error", "median", "mean")


def steps(curves: Sequence[Edf], points: int = 200) -> list[float]:
    """Return errors at which to draw the curves: evenly spaced, from below the best error to the worst one."""
    low, high = min(curve.errors[0] for curve in curves), max(curve.errors[-1] for curve in curves)
    margin = 0.02 * (high - low) or 1.0
    grid = np.linspace(max(0.0, low - margin), min(100.0, high + margin), points)
    return sorted({*grid.tolist(), *(error for curve in curves for error in curve.errors)})
