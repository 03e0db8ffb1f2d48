"""Sweeps of tiny networks: the store, failed members, shared members and programs, resuming."""

import csv
import io
import json
import signal

import jax
import numpy as np
import pytest
from conftest import SilentProgress, fit_run
from rich.console import Console

from cnnjax import create, data
from cnnjax.config import Data, EarlyStopping, Experiment, Optimizer, Train
from cnnjax.errors import Interrupted, PartlyDone, UserError
from cnnjax.functional import leaves_by_path
from cnnjax.ops import dispatch
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.predictor import load
from cnnjax.sweep import Sweep, cost, grid, page, running, store, table
from cnnjax.sweep.members import expand
from cnnjax.sweep.progress import MemberProgress, SweepProgress
from cnnjax.sweep.running import SweepLaunch
from cnnjax.system.signals import deferred_signals
from cnnjax.training.hooks import Plan
from cnnjax.training.loop import fit, shared_dispatch, training
from cnnjax.training.turns import take_turns
from tests.faults.harness import write_digits

COMPILATION = "/jax/core/compile/backend_compile_duration"


pytestmark = pytest.mark.usefixtures("no_sweep_figures")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A dense network for 12x12 images that trains in a moment: 320 training images, 10 steps an epoch."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return Experiment(
        model=create("mlp", input_size=12),
        data=Data(source="mnist", dir=str(folder), validation=0.2),
        optimizer=Optimizer(name="momentum", lr=0.05),
        train=Train(epochs=2, batch_size=32, eval_batch_size=80),
    )


RATES = (0.05, 0.1)
SWEEP = Sweep(axes=(grid("optimizer.lr", RATES), grid("seed", (0, 1))))
DIVERGING = Sweep(axes=(grid("optimizer.lr", (0.05, 1e30)), grid("seed", (0, 1))))


def run(launch, *only, **options):
    """Run a sweep; return its output."""
    console = Console(record=True, width=200, file=io.StringIO())
    running.run(launch, console, only, **options)
    return console.export_text()


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """A finished sweep of four members, with the number of compilations while each of them trained."""
    launch = SweepLaunch("sweep_tiny", "Two rates.", base, SWEEP, tmp_path_factory.mktemp("store"))
    compilations = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "TOGETHER", 1)  # one after the other, so that compilations can be told apart
        end = running.end_member
        patch.setattr(running, "end_member", lambda *a: (compilations.append("end"), end(*a))[1])
        jax.monitoring.register_event_duration_secs_listener(
            listener := lambda event, *_, **__: compilations.append("compile") if event == COMPILATION else None
        )
        output = run(launch)
        jax.monitoring.unregister_event_duration_listener(listener)
    return launch, output, compilations


def read_csv(launch):
    return list(csv.DictReader((launch.folder / "sweep.csv").read_text().splitlines()))


def test_every_member_has_a_run_folder_and_a_row(finished):
    launch, output, _ = finished
    assert "4 members: 0 done, 4 to train" in output
    assert output.count("test top-1") == 4
    rows = read_csv(launch)
    assert [(row["optimizer.lr"], row["seed"]) for row in rows] == [
        ("0.05", "0"), ("0.05", "1"), ("0.1", "0"), ("0.1", "1"),
    ]  # fmt: skip
    assert {path.name for path in (launch.root / "members").iterdir()} == {row["member"] for row in rows}
    for row in rows:
        results = RunFolder(store.member_folder(launch.root, row["member"])).read_results()
        assert row["status"] == "finished"
        assert float(row["test_top1"]) == results["test"]["top1"]
        assert float(row["seconds"]) == results["seconds"]
        assert row["optimizer.name"] == "momentum"
    config = json.loads((store.member_folder(launch.root, rows[3]["member"]) / "config.json").read_text())
    assert config["name"] == "sweep_tiny,optimizer.lr=0.1,seed=1"


def test_members_of_one_group_compile_once(finished):
    """After the first member, no program is compiled at all, neither for steps nor for evaluation."""
    _, _, events = finished
    first = events.index("end")
    assert "compile" in events[:first]
    assert "compile" not in events[first:]


def test_a_member_equals_a_standalone_run_bit_for_bit(base, finished, tmp_path):
    launch, _, _ = finished
    member = expand(base, SWEEP)[3]
    alone = RunFolder(tmp_path / "alone")
    alone.start("alone", member.experiment)
    fit_run(member.experiment, alone, SilentProgress())
    together = launch.member_folder(member)
    a, b = (leaves_by_path(load(folder).variables.params) for folder in (alone.path, together))
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[path], b[path]) for path in a)
    for one, other in zip(alone.read_metrics(), RunFolder(together).read_metrics(), strict=True):
        assert {k: v for k, v in one.items() if k not in table.CLOCK} == {
            k: v for k, v in other.items() if k not in table.CLOCK
        }


def test_members_in_turn_equal_standalone_runs_bit_for_bit(base):
    experiments, dataset = [member.experiment for member in expand(base, SWEEP)], data.load(base.data)
    works = ((number, training(experiment, dataset)) for number, experiment in enumerate(experiments))
    together = dict(take_turns(works, most=3))
    assert sorted(together) == [0, 1, 2, 3]
    for number, experiment in enumerate(experiments):
        shared_dispatch.cache_clear()  # alone, with a program of its own
        alone = fit(experiment, dataset).snapshot.state
        a, b = (jax.tree.leaves(state) for state in (together[number].snapshot.state, alone))
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_finished_sweep_trains_nothing_and_shares_its_members(base, finished, tmp_path):
    launch, _, _ = finished
    before = (launch.folder / "sweep.csv").read_bytes()
    assert "4 members: 4 done, 0 to train" in run(launch)
    assert (launch.folder / "sweep.csv").read_bytes() == before
    wider = launch._replace(name="wider", sweep=Sweep(axes=(grid("optimizer.lr", (*RATES, 0.2)), grid("seed", (0, 1)))))
    costs = list(cost.costs(wider))
    assert [(group.missing, group.steps) for group in costs] == [(2, 40)]
    assert cost.seconds(costs)[0] > 0
    assert not wider.folder.exists()  # a dry run writes nothing


def test_table_and_page_are_rebuilt_from_the_folders(finished):
    launch, _, _ = finished
    names = ("report.html", "sweep.csv")
    before = {name: (launch.folder / name).read_bytes() for name in names}
    for name in names:
        (launch.folder / name).unlink()
    page.rebuild(launch.folder)
    assert {name: (launch.folder / name).read_bytes() for name in names} == before
    text = before["report.html"].decode()
    assert "optimizer.lr: " in text
    assert text.count("<tr>") > 4


def test_a_damaged_description_is_refused(finished, tmp_path):
    launch, _, _ = finished
    description = json.loads((launch.folder / "sweep.json").read_text())
    first = description["entries"][0]
    for change in (
        {"entries": [{**first, "id": "../elsewhere"}]}, {"entries": [{**first, "values": {"seed": [[1]]}}]},
        {"entries": [{**first, "values": "no"}]}, {"axes": "no"}, {"format": 99},
    ):  # fmt: skip
        (tmp_path / "sweep.json").write_text(json.dumps({**description, **change}))
        with pytest.raises(UserError, match=r"is damaged; run scripts/sweep.py again|has format 99, newer than 1"):
            page.rebuild(tmp_path)


def test_a_diverged_member_is_recorded_and_the_others_finish(base, tmp_path):
    launch = SweepLaunch("part", "", base, DIVERGING, tmp_path)
    with pytest.raises(PartlyDone, match=r"2 of 4 members did not finish: optimizer.lr=1e\+30, seed=0 \(diverged\)"):
        run(launch, resume_command="the same")
    rows = read_csv(launch)
    assert [row["status"] for row in rows] == ["finished", "finished", "diverged", "diverged"]
    assert "was not finite at step" in rows[2]["problem"]
    assert rows[2]["test_top1"] == ""
    before = (launch.folder / "sweep.csv").read_bytes()
    with pytest.raises(PartlyDone):
        run(launch)  # it would diverge again, so nothing is trained
    assert (launch.folder / "sweep.csv").read_bytes() == before
    assert "<h2>Problems</h2>" in (launch.folder / "report.html").read_text()


@pytest.mark.trains_long
def test_a_failed_member_is_tried_again(base, tmp_path, monkeypatch):
    launch = SweepLaunch("tried", "", base, Sweep(axes=(grid("seed", (0, 1)),)), tmp_path)
    steps = running.run_steps

    def failing(member_launch, *arguments):
        if member_launch.experiment.seed == 0:
            yield
            raise OSError(28, "No space left on device")
        return (yield from steps(member_launch, *arguments))

    with monkeypatch.context() as patch:
        patch.setattr(running, "run_steps", failing)
        with pytest.raises(PartlyDone, match=r"1 of 2 members did not finish: seed=0 \(failed\)"):
            run(launch)
        assert read_csv(launch)[0]["problem"] == "OSError: [Errno 28] No space left on device"
    assert "1 done, 1 to train" in run(launch)
    assert [row["status"] for row in read_csv(launch)] == ["finished", "finished"]


@pytest.mark.trains_long
def test_an_interrupt_saves_every_member_in_progress(base, finished, tmp_path, monkeypatch):
    launch = finished[0]._replace(root=tmp_path)
    start, started = MemberProgress.start, []

    def start_and_stop(progress, plan):
        start(progress, plan)
        started.append(progress)
        if len(started) == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MemberProgress, "start", start_and_stop)
        patch.setattr(running, "TOGETHER", 3)
        with pytest.raises(Interrupted, match="interrupted; to resume: the same call"):
            run(launch)
    saved = [list((folder / "checkpoints").glob("*")) for folder in sorted((tmp_path / "members").iterdir())]
    assert [len(paths) for paths in saved] == [1, 1, 1]
    assert {row["status"] for row in read_csv(launch)} == {"unfinished", "missing"}
    run(launch)
    names = [name for name in read_csv(launch)[0] if name not in table.CLOCK]
    again, once = ([[row[name] for name in names] for row in read_csv(sweep)] for sweep in (launch, finished[0]))
    assert again == once


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (Sweep(axes=(grid("train.batch_size", (32, 999)),)), "train.batch_size is 999 and there are 320 training"),
        (Sweep(axes=(grid("model.input_size", (12, 28)),)), "the images of mnist are 12x12x1 and the network expects"),
    ],
)
def test_a_member_that_does_not_fit_is_refused_before_anything_is_written(base, tmp_path, sweep, message):
    with pytest.raises(UserError, match=message):
        run(SweepLaunch("bad", "", base, sweep, tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_parquet_holds_the_same_table(finished):
    parquet = pytest.importorskip("pyarrow.parquet")
    launch, _, _ = finished
    description = store.read_description(launch.folder)
    rows = table.read_rows(launch.root, description)
    read = parquet.read_table(io.BytesIO(table.parquet_bytes(rows))).to_pydict()
    assert list(read) == table.header(rows)
    assert read["seed"] == [0, 1, 0, 1]
    assert read["test_top1"] == [row.figures["test_top1"] for row in rows]
    assert read["stopped_early"] == [False] * 4


@pytest.mark.trains_long
def test_early_stopping_ends_a_member_by_itself(base, tmp_path):
    patience = base.replace(
        train=base.train.replace(epochs=4),
        early_stopping=EarlyStopping(metric="top1", patience=1, min_delta=1.0),  # nothing improves by that much
    )
    launch = SweepLaunch("early", "", patience, Sweep(axes=(grid("early_stopping.patience", (1, None)),)), tmp_path)
    run(launch)
    assert [(row["epochs"], row["stopped_early"]) for row in read_csv(launch)] == [("2", "true"), ("4", "false")]


def test_signals_within_signals_keep_the_outer_message():
    with deferred_signals("outer"), deferred_signals("inner") as poll:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted, match="outer"):
            poll()


@pytest.mark.trains_long
def test_a_stacked_sweep_records_every_member(base, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "members_are_stacked", lambda backend: True)
    launch = SweepLaunch("stacked", "", base, DIVERGING, tmp_path)
    with pytest.raises(PartlyDone, match="2 of 4 members did not finish"):
        run(launch)
    rows = read_csv(launch)
    assert [row["status"] for row in rows] == ["finished", "finished", "diverged", "diverged"]
    for row in rows[2:]:
        assert (store.member_folder(tmp_path, row["member"]) / "problem.json").exists()
    with pytest.raises(PartlyDone):
        run(launch)
    assert read_csv(launch) == rows


def test_members_are_stacked_on_accelerators_only():
    assert not dispatch.members_are_stacked("cpu")
    assert dispatch.members_are_stacked("gpu")


def test_one_bar_shows_the_progress_of_all_members(base):
    console = Console(force_terminal=True, width=100, file=io.StringIO())
    members = expand(base, SWEEP)
    progress = SweepProgress(console, members=4, steps=80)
    first, second = (progress.member(member) for member in members[:2])
    first.start(Plan(2, 10, 32, 5))  # resumed at step 5
    first.step(1, 8, 0.5, 0.9)
    second.start(Plan(2, 10, 32, 0))
    second.step(1, 2, 0.5, 0.9)
    assert progress.bar.tasks[0].completed == 10
    progress.end(members[0], "stopped early", first.left)
    progress.close()
    assert progress.bar.tasks[0].completed == 22
    assert progress.bar.tasks[0].total == 80
    assert "1/4  optimizer.lr=0.05, seed=0: stopped early" in console.file.getvalue()


def test_a_member_is_named_as_the_script_would_name_it(base, tmp_path):
    sweep = Sweep(axes=(grid("model", ("lenet", "mlp")), grid("model.activation", ("relu", "tanh"))))
    launch = SweepLaunch("sweep_models", "", base, sweep, tmp_path)
    assert [launch.member_launch(member).name for member in expand(base, sweep)] == [
        "sweep_models,model=lenet,model.activation=relu", "sweep_models,model=lenet,model.activation=tanh",
        "sweep_models,model=mlp", "sweep_models,model=mlp,model.activation=tanh",
    ]  # fmt: skip


def test_a_sweep_may_not_have_the_name_of_the_folder_of_members(base, tmp_path):
    with pytest.raises(UserError, match="the name of the sweep is 'members'; it must be another"):
        run(SweepLaunch("members", "", base, SWEEP, tmp_path))
