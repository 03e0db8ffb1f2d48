"""The table of `scripts/benchmark.py transfer`, and its errors; its peers run only with PyTorch and Keras."""

from cnnjax.benchmark.transfer import Figures, Work, _reason, _row, _section
from tests.script import run_script


def test_rows_compare_the_median_with_cnnjax(tmp_path):
    ours = [Figures(2.0, 3 * 2**20, 0.5), Figures(4.0, 2**20, 0.9), Figures(3.0, 2**20, 0.75)]
    theirs = [Figures(6.0, 2**20, 0.8)]
    row = _row("cnnjax", ours, ours)
    assert row == ("cnnjax, embeddings once", "3.0", "2.0-4.0", "1.00", "3 MiB", "75.0 %")
    assert _row("torch", theirs, ours)[1:4] == ("6.0", "6.0-6.0", "2.00")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.jpg").touch()
    work = Work(folder=tmp_path, init="file:/home/me/weights.keras", epochs=4)
    arguments = [str(tmp_path), "--init", work.init, "--epochs", "4", "--write"]
    command, table, legend = _section(work, arguments, ["cnnjax"], [row])
    assert command.startswith("`python scripts/benchmark.py transfer FOLDER --init WEIGHTS --epochs 4` on ")
    assert "| cnnjax, embeddings once | 3.0 | 2.0-4.0 | 1.00 | 3 MiB | 75.0 % |" in table
    assert "1 photos, 4 epochs" in legend
    assert "/home/me" not in command + table + legend


def test_the_reason_of_a_failure_is_the_line_of_the_exception():
    assert _reason("Traceback\n  File x\nValueError: no\n-----\nFor simplicity, ...\n") == "ValueError: no"
    assert _reason("killed\n") == "killed"
    assert _reason("") == "it ended without a message"


def test_bad_input_is_refused(tmp_path):
    ended = run_script("benchmark.py", "transfer", tmp_path, "--init", "run:nowhere")
    assert ended.returncode == 2
    assert "has no folder train; give an unpacked folder laid out as train/CLASS/FILE" in ended.stderr
    (tmp_path / "train").mkdir()
    ended = run_script("benchmark.py", "transfer", tmp_path, "--init", "run:nowhere", "--against", "tensorflow")
    assert ended.returncode == 2
    assert "unknown peer 'tensorflow'" in ended.stderr
