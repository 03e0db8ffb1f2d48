"""`scripts/benchmark.py sweep`: all methods train the same members; the table and its section."""

import json

import pytest

from cnnjax.benchmark import page, sweeping
from cnnjax.benchmark.sweeping import WAYS, Measured, Work
from cnnjax.errors import PartlyDone

SMALL = Work(rates=1, seeds=2, epochs=1, turns=1, platform="cpu")


def test_the_members_are_every_rate_with_every_seed():
    members = Work(rates=3, seeds=2).members()
    assert [seed for _, seed in members] == [0, 1] * 3
    assert [rate for rate, _ in members[::2]] == pytest.approx([1e-4, 1e-3, 1e-2])
    assert len(Work().members()) == 32


def test_ratios_compare_with_training_together():
    measured = {WAYS[0].name: Measured([10.0, 12.0, 11.0], 80.0), WAYS[3].name: Measured([22.0], 79.5)}
    rows = sweeping._rows(SMALL, measured)
    assert rows[0] == ("cnnjax, together", "11.0", "10.0-12.0", "10.9", "80.00 %", "1.00")
    assert rows[1][-1] == "2.00"
    assert sweeping._rows(SMALL, {WAYS[3].name: Measured([22.0], 79.5)})[0][-1] == ""


def test_a_missing_library_is_reported_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(sweeping, "_measure", lambda work, way, images: (2.0, 80.0))
    ways = (*WAYS[:2], WAYS[3]._replace(package="no_such_package"))
    monkeypatch.setattr(sweeping, "WAYS", ways)
    with pytest.raises(PartlyDone, match=r"PyTorch, eager not installed; install it with pip install -e .\[bench\]"):
        sweeping.run(["--turns", "2", "--write"])
    assert "together" in capsys.readouterr().out
    assert not page.PAGE.exists()


def test_the_section_names_the_command_and_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(sweeping, "_measure", lambda work, way, images: (2.0, 80.0))
    monkeypatch.setattr(sweeping, "WAYS", WAYS[:3])
    sweeping.run(["--rates", "2", "--seeds", "1", "--write"])
    text = page.PAGE.read_text()
    assert "## Training a sweep, " in text
    assert "`python scripts/benchmark.py sweep --rates 2 --seeds 1` on " in text
    assert "| cnnjax, one process each | 2.0 | 2.0-2.0 | 60.0 | 80.00 % | 1.00 |" in text
    assert "2 members: LeNet-5 with sigmoid" in text


@pytest.mark.many_processes
def test_all_methods_of_cnnjax_train_the_same_members_with_the_same_results(tmp_path):
    images = tmp_path / "images.npz"
    sweeping.save_images(images)
    results = []
    for way in WAYS[:3]:
        job = json.dumps([way.argument, str(images), SMALL.members(), SMALL.epochs, "cpu"])
        command = [sweeping.sys.executable, "-m", way.module, job]
        results.append(sorted(map(float, sweeping._output(command, str(tmp_path / way.argument)).split())))
    assert len(results[0]) == 2
    assert results[0] == results[1] == results[2]
