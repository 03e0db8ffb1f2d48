"""`scripts/benchmark.py members`: every way of stacking trains the same members; the table and its section."""

import pytest

from cnnjax.benchmark import members, page
from cnnjax.benchmark.members import WAYS, Measured
from cnnjax.errors import UserError

SMALL = ["--members", "2", "--images", "64", "--batch", "32", "--turns", "1", "--platform", "cpu"]


def test_a_batch_larger_than_the_epoch_is_refused():
    with pytest.raises(UserError, match="--batch is 256; it must be at most the 64 --images"):
        members.run(["--images", "64"])


def test_the_section_names_the_command_and_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(members, "measure", lambda work: {WAYS[1].name: Measured([0.5, 0.7, 0.6], 4.6)})
    members.run([*SMALL, "--write"])
    text = page.PAGE.read_text()
    assert "## Members side by side, " in text
    assert "| plain vmap | 0.600 | 0.500-0.700 | 300.00 | 4.0 |" in text
    assert "2 LeNet-5 with ReLU side by side, adam, 64 images at batch 32, float32" in text
    assert "packed kernels are used on accelerators only" in capsys.readouterr().out


@pytest.mark.compiles_large
def test_every_way_is_measured(capsys):
    members.run(SMALL)
    output = capsys.readouterr().out
    assert all(way.name.split()[0] in output for way in WAYS)
