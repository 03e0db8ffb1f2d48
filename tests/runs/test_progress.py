import io

import pytest
from rich.console import Console

from cnnjax.runs.progress import TerminalProgress
from cnnjax.system.console import say
from cnnjax.training.hooks import Plan, Snapshot

ROW = {
    "epoch": 10, "train_loss": 0.5, "train_top1": 0.81, "validation_loss": 0.6, "validation_top1": 0.79,
    "images_per_second": 12345.6,
}  # fmt: skip


def output(terminal: bool) -> str:
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
    progress = TerminalProgress(console)
    progress.start(Plan(epochs=30, steps_per_epoch=234, batch_size=256, steps_done=9 * 234))
    for step in (100, 120):
        progress.step(10, step, loss=0.4567, top1=0.8123)
    progress.bar.refresh()
    progress.epoch(Snapshot(None, None, [ROW], 0.0))
    progress.close()
    return console.file.getvalue()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_bar_fits_80_columns():
    text = output(terminal=True)
    for expected in ("epoch 10/30", "2226/7020", "loss 0.457", "top-1 81.2%", "images/s"):
        assert expected in text
    assert "\u2026" not in text  # nothing was truncated


def test_without_a_terminal_each_epoch_is_one_line():
    assert output(terminal=False) == (
        "epoch 10/30  train loss 0.5000 top-1 81.00 %  validation loss 0.6000 top-1 79.00 %  12,346 images/s  saved\n"
    )


@pytest.mark.parametrize("path", ["a/q[/z]", "runs/[red]x", ":smile:", "a" * 200])
def test_markup_is_printed_literally(path):
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    TerminalProgress(console).notice(f"continuing from {path}")
    say(console, f"{path}\x1b[2J")
    assert console.file.getvalue() == f"continuing from {path}\n{path}?[2J\n"
