"""The results of a run in the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from cnnjax.data.division import PARTS
from cnnjax.system.console import say


def print_results(name: str, results: dict[str, Any], console: Console) -> None:
    """Print the results of a finished run."""
    early = ", stopped early" if results["stopped_early"] else ""
    console.print()
    say(console, name)
    say(console, f"best epoch: {results['best_epoch']} of {results['epochs']}{early}")
    if "base_rate" in results:
        say(console, f"base learning rate: {results['base_rate']:.4g}, scaled with the batch size")
    table = Table()
    for column in ("", "loss", "top-1", "images"):
        table.add_column(column, justify="right" if column else "left")
    rows = {part: results[part] for part in PARTS}
    if "raw" in results:
        rows |= {f"{part}, raw parameters": results["raw"][part] for part in PARTS}
    if "views" in results:
        views = results["views"]
        rows |= {f"{part}, {views['count']} views": views[part] for part in ("validation", "test")}
    for row, figures in rows.items():
        table.add_row(row, f"{figures['loss']:.4f}", f"{100 * figures['top1']:.2f} %", f"{figures['images']:,}")
    console.print(table)
    if "raw" in results:
        say(console, f"the figures are those of the moving averages; best raw epoch: {results['raw']['best_epoch']}")
    if "phases" in results:
        console.print(phases_table(results))
    say(console, f"{results['seconds']:.1f} s of training, {results['images_per_second']:,.0f} images/s")


def phases_table(results: dict[str, Any]) -> Table:
    """Return what each phase trained, and how good it was; a star marks the one whose parameters are the run's."""
    table = Table()
    for column in ("phase", "trained", "frozen", "epochs", "validation loss", "validation", "test"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase in results["phases"]:
        star = " *" if phase["phase"] == results["best_phase"] else ""
        shares = (f"{100 * phase[part]['top1']:.2f} %" for part in ("validation", "test"))
        counts = (f"{phase['trained_parameters']:,}", f"{phase['frozen']['parameters']:,}", f"{phase['epochs']}")
        table.add_row(
            f"{phase['phase']}: {phase['trains']}{star}", *counts, f"{phase['validation']['loss']:.4f}", *shares
        )
    return table
