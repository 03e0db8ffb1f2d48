"""Sweeps: one experiment with many values, trained side by side, compared in one table."""

from cnnjax.sweep.axes import Choice, LogUniform, Sweep, Uniform, drawn, grid, log_grid, zipped
from cnnjax.sweep.networks import sampled_networks

__all__ = ["Choice", "LogUniform", "Sweep", "Uniform", "drawn", "grid", "log_grid", "sampled_networks", "zipped"]
