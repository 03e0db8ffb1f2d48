"""Records of sweeps, and the sections of docs/results.md that are made from them."""

import json
import shutil

import pytest

from cnnjax.errors import UserError
from cnnjax.sweep import records, store
from cnnjax.sweep.axes import Sweep, grid
from cnnjax.sweep.statistics import axes_of, cells
from cnnjax.sweep.table import read_rows
from tests.sweep.made_up import make_store

SWEEP = Sweep(axes=(grid("model.activation", ("relu", "sigmoid")), grid("seed", range(3))))
TOP1 = {("relu", 0): 0.91, ("relu", 1): 0.912, ("relu", 2): 0.913, ("sigmoid", 0): 0.89, ("sigmoid", 1): 0.893}


@pytest.fixture
def sweep(tmp_path):
    """The folder of a sweep in which one of six members diverged."""
    return make_store(tmp_path / "store", "claims", SWEEP, lambda values: TOP1.get(tuple(values.values())))


def test_a_recorded_sweep_gives_a_section_with_its_sentences(sweep, tmp_path):
    recorded = records.record(sweep, tmp_path / "records")
    assert {path.name for path in recorded.iterdir()} == {"sweep.json", "sweep.csv", "machines.json"}
    assert not any(str(tmp_path) in path.read_text() for path in recorded.iterdir())
    (section,) = records.sections(tmp_path / "records")
    assert section.startswith("## A made-up sweep\n")
    assert "| relu | 3 | 91.17 ± 0.38 % | 5 |" in section
    assert "6 members (`scripts/sweep.py claims`), 1 diverged" in section
    assert "Run on made-up device (2 CPUs), Python 3.11" in section
    description, rows = records.read_record(recorded)
    live = cells(axes_of(description), read_rows(sweep.parent, description))
    assert [cell.top1 for cell in cells(axes_of(description), rows)] == [cell.top1 for cell in live]


def test_a_sweep_with_missing_members_is_not_recorded(sweep, tmp_path):
    first = store.read_description(sweep).entries[0].id
    shutil.rmtree(store.member_folder(sweep.parent, first))
    with pytest.raises(UserError, match=r"1 member that neither finished nor diverged; run scripts/sweep.py claims"):
        records.record(sweep, tmp_path / "records")


def test_a_record_whose_files_do_not_fit_is_refused(sweep, tmp_path):
    recorded = records.record(sweep, tmp_path / "records")
    description = json.loads((recorded / "sweep.json").read_text())
    description["entries"][0]["id"] = "lenet-0123456789abcdef"
    (recorded / "sweep.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="does not fit its sweep.json; record the sweep again"):
        records.sections(tmp_path / "records")
