"""A small part of the fuzzing; `python -m tests.hostile.fuzz` runs all of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from cnnjax.errors import UserError
from tests.hostile import fuzz
from tests.hostile.formats import FORMATS, Format

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.many_inputs
def test_damaged_files_of_every_format_are_read_or_refused():
    command = [sys.executable, "-m", "tests.hostile.fuzz", "--count", "120", "--seed", "1", "--workers", "1"]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-2000:]
    assert set(FORMATS) <= {line[:16].strip() for line in child.stdout.splitlines()}


def test_an_input_is_a_function_of_seed_and_index():
    one, other = fuzz.Input("h5", 3), fuzz.Input("h5", 4)
    content = bytes(range(256)) * 4
    assert fuzz.damaged(one, content, seed=0) == fuzz.damaged(one, content, seed=0)
    assert fuzz.damaged(one, content, seed=0) not in (
        fuzz.damaged(other, content, seed=0), fuzz.damaged(one, content, seed=1), content,
    )  # fmt: skip


def test_the_fuzzer_detects_every_kind_of_finding(tmp_path):
    def outcome(read, most_megabytes=50) -> str:
        path = tmp_path / "file"
        return fuzz.one_outcome(Format(Path.touch, read, most_megabytes=most_megabytes), b"", path.parent)

    def refuse(path):
        raise UserError("no")

    assert outcome(Path.read_bytes) == "read"
    assert outcome(refuse) == "refused"
    assert outcome(lambda path: {}[3]) == "KeyError: '3'"
    assert outcome(lambda path: sys.exit(3)) == "SystemExit: '3'"
    assert "MB of memory" in outcome(lambda path: b"x" * 200_000_000)
    assert outcome(lambda path: path.with_name("other").touch()) == "wrote a file; read"


def test_the_table_shows_how_to_reproduce_findings(capsys):
    inputs = [fuzz.Input("h5", 0), fuzz.Input("h5", 1), fuzz.Input("png", 0)]
    fuzz.print_table(inputs, ["read", "KeyError: '3'", "refused"], seed=7)
    output = capsys.readouterr().out
    assert "h5                     2       1        0         1" in output
    assert "all                    3       1        1         1" in output
    assert "python -m tests.hostile.fuzz --seed 7 --only 'h5' --index 1: KeyError: '3'" in output
