import errno
import json
import os

import pytest

from cnnjax import create
from cnnjax.config import Data, Experiment, Train
from cnnjax.data.division import PARTS
from cnnjax.errors import UserError
from cnnjax.runs.environment import environment
from cnnjax.runs.folder import RunFolder, read_config
from cnnjax.runs.metrics import LONGEST_ROW, MOST_FIGURES, ROW, metrics_line, read_rows, saved_rows
from cnnjax.runs.naming import differences, flatten, run_name
from cnnjax.system.lock import LostLock


def changed(experiment):
    return experiment.replace(
        seed=3,
        model=experiment.model.replace(activation="tanh"),
        optimizer=experiment.optimizer.replace(name="sgd", lr=0.1),
    )


def test_a_config_round_trips(tmp_path, experiment):
    RunFolder(tmp_path / "run").start("name", changed(experiment))
    assert read_config(tmp_path / "run" / "config.json") == ("name", changed(experiment))


def test_the_run_name_lists_overrides(experiment):
    assert run_name("mini", experiment, experiment) == "mini"
    expected = "mini,model.activation=tanh,optimizer.lr=0.1,optimizer.name=sgd,seed=3"
    assert run_name("mini", experiment, changed(experiment)) == expected


def test_a_repeated_override_is_named_once(experiment):
    first = experiment.replace(seed=3)
    name = run_name("mini", experiment, first)
    assert run_name(name, first, first.replace(seed=4)) == "mini,seed=4"


def test_the_absolute_data_folder_is_recorded_and_may_change(tmp_path, experiment, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / "run")
    for place in ("here", "there"):
        folder.start("a", experiment.replace(data=experiment.data.replace(dir=place)))
        name, recorded = read_config(tmp_path / "run" / "config.json")
        assert (name, recorded.data.dir) == ("a", str(tmp_path / place))


def test_the_run_name_lists_an_override_with_the_value_none(experiment):
    patient = experiment.replace(early_stopping=experiment.early_stopping.replace(patience=3))
    assert run_name("mini", patient, experiment) == "mini,early_stopping.patience=None"


def test_another_data_folder_is_not_a_difference(experiment):
    moved = experiment.replace(data=experiment.data.replace(dir="elsewhere"))
    assert differences(experiment, moved) == {}
    assert run_name("mini", experiment, moved) == "mini"


def test_another_model_is_named_by_its_family(experiment):
    assert run_name("mini", experiment, experiment.replace(model=create("mlp"))) == "mini,model.family=mlp"


def test_a_long_name_is_truncated_and_stays_unique(experiment):
    def name(last):
        durations = (*(f"{n}ep" for n in range(1, 80)), last)
        return run_name("mini", experiment, experiment.replace(
            schedule=experiment.schedule.replace(name="step", boundaries=durations)))  # fmt: skip

    assert len(name("100ep")) < 200
    assert name("100ep") != name("200ep")


def test_another_config_in_the_same_folder_is_refused_with_the_differing_fields(tmp_path, experiment):
    folder = RunFolder(tmp_path / "run")
    folder.start("a", experiment)
    folder.start("a", experiment)
    with pytest.raises(UserError) as error:
        folder.start("a", changed(experiment))
    for expected in (
        "model.activation was 'relu' and is now 'tanh'",
        "seed was 0 and is now 3",
        "optimizer.lr",
        "--out",
    ):
        assert expected in str(error.value)
    assert read_config(tmp_path / "run" / "config.json")[1] == experiment


def test_many_differing_fields_are_cut(tmp_path, experiment):
    folder = RunFolder(tmp_path / "run")
    folder.start("a", experiment)
    other = Experiment(model=create("resnet50"), data=Data(source="image_folder", size=224), train=Train(batch_size=7))
    with pytest.raises(UserError, match=r"'lenet' and is now 'resnet'; .* and \d+ more; choose") as error:
        folder.check(other)
    assert len(str(error.value)) - 2 * len(str(folder.path)) < 400


def test_a_path_that_is_not_utf8_is_refused_before_training(tmp_path, experiment):
    folder = RunFolder(tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(UserError, match="its path is not UTF-8 in this locale; rename its folders"):
        folder.check(experiment)
    assert not folder.path.exists()


def test_a_folder_with_other_files_is_refused(tmp_path, experiment):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="is not empty and holds no config.json"):
        RunFolder(tmp_path).start("a", experiment)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_config_without_permission_is_not_called_malformed(tmp_path, monkeypatch):
    def refusing(path, flags, mode):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(UserError, match=r"config.json cannot be read: Permission denied; check its permissions$"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is not a run's config.json"),
        ('{"format": 1, "name": "a"}', "the experiment is None"),
        ('{"format": -1, "name": "a", "experiment": {}}', "has format -1; it must be 1 or more"),
        ('{"format": 1, "name": "a\\u0000", "experiment": {}}', "printable characters"),
        ('{"format": 1, "name": "a/b", "experiment": {}}', "printable characters"),
        ('{"format": 1, "name": "..", "experiment": {}}', "has the run name '..'; it must be a file name"),
        ('{"format": 9, "cnnjax": "9.9"}', "it needs cnnjax 9.9 or newer"),
        (
            '{"format": 1, "name": "a", "experiment": {"model": {"family": "lenet"}, "optimizer": {"lr": 1'
            + "0" * 400
            + "}}}",
            "a number is NaN, or larger than 1e\\+300",
        ),
        ('{"format": 9, "name": "a", "experiment": {}}', "has format 9, newer than 2"),
        ('{"format": 1, "name": "a", "experiment": {}}', "model is None; it must be an object with a 'family'"),
        ('{"format": 1, "name": "a", "experiment": {"model": {"family": "lenet"}, "sed": 3}}', "did you mean 'seed'"),
        (
            '{"format": 1, "name": "a", "experiment": {"model": {"family": "lenet"}, "optimizer": {"lr": -1}}}',
            "optimizer.lr is -1",
        ),
    ],
)
def test_a_damaged_config_is_one_error(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_config(path)


def test_a_pipe_in_place_of_the_config_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match="is not a regular file"):
        read_config(tmp_path / "config.json")


def row(epoch):
    return {**dict.fromkeys(ROW, 0.5), "epoch": epoch}


@pytest.mark.parametrize("damage", [b"5\n", b'{"epoch": 1}\n', b"\xff\n", b'{"ep', b""])
def test_rows_after_a_damaged_line_are_ignored_and_refused_on_resume(tmp_path, damage):
    folder = RunFolder(tmp_path)
    folder.append_metrics(row(1))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(damage)
    assert folder.read_metrics() == [row(1)]
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged after epoch 1, and 2 epochs were saved"):
        saved_rows(folder.path / "metrics.jsonl", 2)
    assert saved_rows(folder.path / "metrics.jsonl", 1) == [row(1)]


def test_the_number_and_length_of_rows_are_limited(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(metrics_line(row(epoch)) for epoch in range(1, 5)))
    assert read_rows(path, 3) == [row(1), row(2), row(3)]
    many = {f"more{number}": 1 for number in range(MOST_FIGURES)}
    for more in ({"more": "1" * LONGEST_ROW}, {"more": "text"}, {"more": [[]]}, many):
        path.write_bytes(metrics_line(row(1)) + metrics_line({**row(2), **more}) + metrics_line(row(3)))
        assert read_rows(path) == [row(1)]
    path.write_bytes(metrics_line(row(1)) + metrics_line({**row(2), "more": 1}))
    assert read_rows(path) == [row(1), {**row(2), "more": 1}]


@pytest.mark.parametrize("content", ["{}", "[]", "3", "{", '{"epochs": 1, "train": 3}'])
def test_damaged_results_are_one_error(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match="results.json"):
        RunFolder(tmp_path).read_results()


@pytest.mark.parametrize("count", [10.0, True, None])
@pytest.mark.parametrize("name", ["epochs", "best_epoch"])
def test_counts_in_results_must_be_integers(tmp_path, name, count):
    figures = {"loss": 1.0, "top1": 0.5, "images": 10}
    results = {"epochs": 10, "best_epoch": 3, "stopped_early": False, "seconds": 1.0, "images_per_second": 1.0}
    results |= dict.fromkeys(PARTS, figures)
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert RunFolder(tmp_path).read_results() == results
    (tmp_path / "results.json").write_text(json.dumps({**results, name: count}))
    with pytest.raises(UserError, match=r"results.json is damaged"):
        RunFolder(tmp_path).read_results()


@pytest.mark.parametrize("content", ["5", '[{"a": NaN}]', '[{"a": 1e999}]', '[{"a": "\\ud800"}]', '["\\ud800"]'])
def test_a_damaged_environment_is_one_error(tmp_path, content):
    (tmp_path / "environment.json").write_text(content)
    with pytest.raises(UserError, match="environment.json (is damaged|cannot be read as JSON)"):
        RunFolder(tmp_path).record_environment({})


def test_a_run_killed_during_its_first_write_can_be_restarted(tmp_path, experiment):
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        (folder.path / ".config.json.writing").write_text("{")
    folder.start("a", experiment)
    assert read_config(folder.path / "config.json") == ("a", experiment)


def test_a_config_of_an_older_version_without_some_options_resumes(tmp_path, experiment):
    folder = RunFolder(tmp_path)
    folder.start("a", experiment)
    config = json.loads((tmp_path / "config.json").read_text())
    for option in ("accumulate", "remat"):
        del config["experiment"]["train"][option]
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder.start("a", experiment)
    assert read_config(tmp_path / "config.json") == ("a", experiment)
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_without_the_lock_nothing_is_written(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.locked():
        folder.append_metrics(row(1))
        (tmp_path / ".lock").unlink()
        for write in (
            lambda: folder.append_metrics(row(2)),
            lambda: folder.write_metrics([]),
            lambda: folder.write_results({}),
        ):
            with pytest.raises(LostLock, match="was moved, deleted or replaced"):
                write()
    assert folder.read_metrics() == [row(1)]
    assert not (tmp_path / "results.json").exists()


def test_a_failed_append_leaves_no_partial_line(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.append_metrics(row(1))

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            folder.append_metrics(row(2))
    folder.append_metrics(row(2))
    assert folder.read_metrics() == [row(1), row(2)]
    folder.write_metrics([row(1)])
    assert folder.read_metrics() == [row(1)]


def test_a_changed_number_of_cores_is_reported(tmp_path):
    folder = RunFolder(tmp_path)
    folder.record_environment({"cpus": 2, "python": "3.11"})
    assert folder.record_environment({"cpus": 1, "python": "3.12"}) == {"cpus": (2, 1)}


def test_each_start_appends_its_environment(tmp_path):
    folder = RunFolder(tmp_path)
    folder.record_environment(environment({"convolution": "xla"}))
    folder.record_environment({"second": True})
    first, second = json.loads((tmp_path / "environment.json").read_text())
    assert first["backend"] == "cpu"
    assert first["lowering"] == {"convolution": "xla"}
    assert {"jax", "flax", "optax", "cnnjax"} <= set(first["packages"])
    assert {"commit", "dirty", "device", "cpus"} <= set(first)
    assert second == {"second": True}


def test_flatten_returns_dotted_names():
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": [3]}}}) == {"a": 1, "b.c": 2, "b.d.e": [3]}
