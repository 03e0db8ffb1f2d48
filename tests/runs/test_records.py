"""Records of runs, the results page written from them, and the page that compares runs."""

import json
import shutil

import numpy as np
import pytest
from conftest import without_figures
from rich.console import Console

import cnnjax
from cnnjax import create
from cnnjax.errors import UserError
from cnnjax.runs import comparison, records, results_page

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    """A finished run of one epoch, named as by scripts/train.py."""
    experiment = experiment.replace(model=create("mlp"), train=experiment.train.replace(epochs=1))
    folder = tmp_path_factory.mktemp("finished") / "run"
    with without_figures():
        cnnjax.train(experiment, folder, name="small,seed=0", console=QUIET)
    return folder


@pytest.fixture
def recorded(run, tmp_path):
    return records.record(run, tmp_path / "records")


def test_a_record_holds_the_small_files_without_local_paths(run, recorded, digits):
    assert recorded.relative_to(recorded.parents[1]).as_posix() == "small/seed-0"
    assert {path.name for path in recorded.iterdir()} == {
        "config.json", "environment.json", "metrics.jsonl", "results.json",
    }  # fmt: skip
    assert (recorded / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert json.loads((recorded / "config.json").read_text())["experiment"]["data"]["dir"] is None
    assert not any(str(digits) in path.read_text() for path in recorded.iterdir())


@pytest.mark.usefixtures("no_figures")
def test_a_repeated_run_equals_its_record(recorded, experiment, tmp_path, digits):
    record = records.read_record(recorded)
    experiment = record.experiment.replace(data=record.experiment.data.replace(dir=str(digits)))
    cnnjax.train(experiment, tmp_path / "repeated", name="small", console=QUIET)
    compared = records.compare(record, records.read_record(tmp_path / "repeated"))
    assert compared.equal
    assert compared.figures > 15
    assert not compared.reasons


def test_differences_are_reported_with_their_size_and_a_reason(recorded):
    record = records.read_record(recorded)
    rows = [{**record.rows[0], "validation_loss": record.rows[0]["validation_loss"] + 0.25, "seconds": 99.0}]
    environment = {**record.environment, "device": "another"}
    compared = records.compare(record, record._replace(rows=rows, environment=environment))
    assert not compared.equal
    assert compared.different == 1
    assert compared.largest == pytest.approx(0.25)
    assert compared.first.startswith("validation_loss of epoch 1 is ")
    assert compared.reasons == {"device": (record.environment["device"], "another")}


def test_an_unfinished_run_is_not_recorded(trained_run, tmp_path):
    with pytest.raises(UserError, match="holds no finished run; run scripts/train.py .* to finish it"):
        records.record(trained_run, tmp_path)


def test_another_config_does_not_replace_a_record(run, recorded, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["experiment"]["optimizer"]["lr"] = 0.5
    (other / "config.json").write_text(json.dumps(config))
    before = (recorded / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"holds a run with another config \(optimizer.lr differs\)"):
        records.record(other, recorded.parents[1])
    assert (recorded / "config.json").read_bytes() == before
    assert records.record(run, recorded.parents[1]) == recorded  # the same config replaces it


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lenet", "lenet"), ("lenet,seed=1", "lenet"), ("lenet,optimizer.lr=0.1,seed=12", "lenet,optimizer.lr=0.1")],
)
def test_a_record_is_named_after_the_run_without_its_seed(name, expected):
    assert records.record_name(name) == expected


QUESTIONS = """
[[question]]
title = "How far does it get?"
text = "It reaches {1}."
rows = [{record = "small", label = "dense", claimed = "90.0", source = "the course"}]
"""


def test_the_results_page_is_written_from_records(recorded, tmp_path):
    (tmp_path / "questions.toml").write_text(QUESTIONS)
    text = results_page.page(records.read_records(recorded.parents[1]), tmp_path / "questions.toml").text
    top1 = 100 * records.read_record(recorded).results["test"]["top1"]
    assert f"It reaches {top1:.2f} %." in text
    assert "| dense (`small`) | " in text
    assert "| 90.0 % | the course |" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('record = "small"', 'record = "smal"', "names records that do not exist: smal"),
        ("{1}", "{2}", r"may contain only \{1\} to \{1\}"),
    ],
)
def test_questions_that_do_not_fit_the_records_are_refused(recorded, tmp_path, old, new, message):
    (tmp_path / "questions.toml").write_text(QUESTIONS.replace(old, new))
    with pytest.raises(UserError, match=message):
        results_page.page(records.read_records(recorded.parents[1]), tmp_path / "questions.toml")


def test_a_record_without_a_question_is_refused(recorded, tmp_path):
    shutil.copytree(recorded, recorded.parents[1] / "unused" / "seed-0")
    config = recorded.parents[1] / "unused" / "seed-0" / "config.json"
    config.write_text(config.read_text().replace('"small"', '"unused"'))
    (tmp_path / "questions.toml").write_text(QUESTIONS)
    with pytest.raises(UserError, match="has a row for the records unused"):
        results_page.page(records.read_records(recorded.parents[1]), tmp_path / "questions.toml")


PICTURED = """
[[question]]
title = "How many images?"
text = "{1} and {2}"
picture = "images_per_class"
image = "images/count.png"
rows = [
  {record = ["ten", "ten,data.split_seed=1"], label = "few", series = "head only"},
  {record = "fifty", label = "more", series = "head only"},
]
"""


def drawn(record, name, count, top1, seed=0):
    experiment = record.experiment.replace(seed=seed, data=record.experiment.data.replace(per_class=count))
    return record._replace(name=name, experiment=experiment, results=record.results | {"test": {"top1": top1}})


def test_a_row_may_have_several_records_and_a_question_a_picture(recorded, tmp_path):
    (tmp_path / "questions.toml").write_text(PICTURED)
    base = records.read_record(recorded)
    few = [drawn(base, "ten", 10, 0.8), drawn(base, "ten,data.split_seed=1", 10, 0.9, seed=1)]
    named = {record.name: [record] for record in [*few, drawn(base, "fifty", 50, 0.95)]}
    page = results_page.page(named, tmp_path / "questions.toml")
    assert "85.00 ± 7.07 % and 95.00 %" in page.text
    assert "![How many images?](images/count.png)" in page.text
    axes = page.pictures["images/count.png"].axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10", "50"]
    (line,) = axes.containers
    np.testing.assert_allclose(line.lines[0].get_xydata(), [(10, 85), (50, 95)])


def test_curves_show_each_row_over_the_epochs(recorded, tmp_path):
    text = PICTURED.replace("images_per_class", "curves").replace('["ten", "ten,data.split_seed=1"]', '"ten"')
    (tmp_path / "questions.toml").write_text(text)
    base = records.read_record(recorded)
    longer = base._replace(name="fifty", rows=[*base.rows, base.rows[0] | {"epoch": 2, "validation_top1": 0.25}])
    page = results_page.page({"ten": [base], "fifty": [longer]}, tmp_path / "questions.toml")
    error = page.pictures["images/count.png"].axes[1]
    assert [len(line.get_xdata()) for line in error.lines] == [1, 2]
    assert error.lines[1].get_ydata()[1] == 75
    with pytest.raises(UserError, match=r"need seeds of equal length; small has runs of \[1, 2\] epochs"):
        results_page.page({"ten": [base, longer._replace(name="ten")], "fifty": [longer]}, tmp_path / "questions.toml")


def test_a_picture_of_overfitting_shows_training_and_validation(recorded, tmp_path):
    text = PICTURED.replace("images_per_class", "overfitting").replace('["ten", "ten,data.split_seed=1"]', '"ten"')
    (tmp_path / "questions.toml").write_text(text)
    base = records.read_record(recorded)
    row = base.rows[0] | {"train_loss": 0.5, "validation_loss": 0.75, "train_top1": 0.5, "validation_top1": 0.25}
    page = results_page.page({"ten": [base._replace(rows=[row])], "fifty": [base]}, tmp_path / "questions.toml")
    loss, error = page.pictures["images/count.png"].axes
    assert [line.get_ydata()[0] for line in loss.lines[:2]] == [0.5, 0.75]
    assert [line.get_ydata()[0] for line in error.lines[:2]] == [50, 75]
    assert [line.get_label() for line in loss.lines[:2]] == ["few, training", "few, validation"]


def test_a_picture_that_does_not_fit_is_refused(recorded, tmp_path):
    base = records.read_record(recorded)
    named = {"ten": [base], "ten,data.split_seed=1": [base], "fifty": [base]}
    for old, new, message in (
        ("images_per_class", "curve", "unknown picture 'curve'"),
        ("", "", "needs data.per_class, which small leaves out"),
    ):
        (tmp_path / "questions.toml").write_text(PICTURED.replace(old, new) if old else PICTURED)
        with pytest.raises(UserError, match=message):
            results_page.page(named, tmp_path / "questions.toml")


@pytest.mark.parametrize(("values", "text"), [([91.0], "91.00"), ([90.0, 92.0], "91.00 ± 1.41")])
def test_mean_and_spread(values, text):
    assert results_page.mean_and_spread(values) == text


def test_runs_are_compared_in_one_page(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["experiment"]["optimizer"]["lr"] = 0.5
    (other / "config.json").write_text(json.dumps(config))
    comparison.write([run, other], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "optimizer.lr" in text
    assert "model.activation" not in text
    assert text.count("<figure") == len(comparison.CURVES)
    with pytest.raises(UserError, match="one run is given"):
        comparison.write([run], tmp_path / "page.html")
    with pytest.raises(UserError, match="holds no finished run"):
        comparison.write([run, tmp_path], tmp_path / "page.html")
