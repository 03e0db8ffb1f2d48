"""--search optuna: the same proposals after a restart, fewer epochs by successive halving, and a better choice than
chance by TPE.
"""

import io

import pytest
from rich.console import Console

from cnnjax.config import Optimizer
from cnnjax.errors import Interrupted
from cnnjax.sweep import Sweep, grid, running, zipped
from cnnjax.sweep.members import expand, select
from cnnjax.sweep.options import Optuna
from tests.oracle.sweep_file import launch_of, table_of, write_sweep

pytest.importorskip("optuna", reason="optuna is not installed; make oracle installs it")
from cnnjax.sweep import search

SWEEP = Sweep(
    axes=(
        zipped({"optimizer.name": ("momentum", "adam"), "model.activation": ("relu", "tanh")}),
        grid("optimizer.momentum", (0.0, 0.9), when={"optimizer.name": ("momentum",)}),
        grid("optimizer.lr", (1e-4, 1e-3, 1e-2, 0.1)),
        grid("seed", (3, 4)),
    )
)


pytestmark = pytest.mark.usefixtures("no_sweep_figures")


@pytest.fixture
def launch(tmp_path):
    made = launch_of(write_sweep(tmp_path, epochs=4), tmp_path / "store")
    base = made.base.replace(optimizer=Optimizer(name="momentum", lr=0.02))
    return made._replace(sweep=SWEEP, base=base.replace(train=base.train.replace(batch_size=32)))


def run(launch, options, *only):
    console = Console(file=io.StringIO(), width=300)
    running.run(launch, console, only, launcher=search.search_launcher(options, only), searches=True)
    return console.file.getvalue()


def statuses(launch):
    return {row["member"]: row["status"] for row in table_of(launch)}


@pytest.mark.parametrize("method", ["tpe", "halving"])
def test_an_interrupted_search_ends_with_the_same_members_and_results(launch, tmp_path, monkeypatch, method):
    options = Optuna(method=method, trials=6, factor=2)
    once = launch._replace(root=tmp_path / "once")
    output = run(once, options)
    assert "6 trials, " in output
    assert "to train all its seeds: --only optimizer.name=" in output
    tried = [row for row in table_of(once) if row["status"] != "missing"]
    assert len(tried) == 6
    assert {row["seed"] for row in tried} == {"3"}
    finished = sum(row["status"] == "finished" for row in tried)
    assert finished == 6 if method == "tpe" else 0 < finished < 6

    calls, steps = [], search.run_steps

    def interrupted(*arguments):
        calls.append(1)
        for number, _ in enumerate(steps(*arguments)):
            if len(calls) == 3 and number == 15:  # within the second epoch of the third member
                raise Interrupted("stopped")
            yield
        return None

    with monkeypatch.context() as patch:
        patch.setattr(search, "run_steps", interrupted)
        patch.setattr(search, "end_member", lambda launch, member, outcome, left: running.Ended(member, "", steps=left))
        with pytest.raises(Interrupted):
            run(launch, options)
    run(launch, options)
    assert table_of(launch) == table_of(once)
    before = {path: path.stat().st_mtime_ns for path in (launch.root / "members").rglob("metrics.jsonl")}
    run(launch, options)  # trains nothing
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_proposals_are_members_and_only_restricts_them(launch):
    members = search._searched(select(expand(launch.base, SWEEP), ("optimizer.momentum=0.9",)))
    assert len(members) == 4
    space, study = search.Space(SWEEP.axes, members), search.make_study(Optuna())
    proposed = {space.propose(study.ask()).title for _ in range(40)}
    assert proposed == {member.title for member in members}


def test_tpe_finds_the_best_member_sooner_than_chance():
    """64 members whose value depends on two ordered axes; with 8 of 10 seeds, 32 proposals hold the best."""
    sweep = Sweep(axes=(grid("optimizer.lr", [i / 8 + 1 for i in range(8)]), grid("train.epochs", range(1, 9))))
    from cnnjax.config import Experiment
    from cnnjax.models.mlp import MLP

    members = expand(Experiment(model=MLP()), sweep)
    space = search.Space(sweep.axes, members)
    found = 0
    for seed in range(10):
        study, best = search.make_study(Optuna(seed=seed)), set()
        for _ in range(32):
            trial = study.ask()
            values = space.propose(trial).values
            distance = abs(values["optimizer.lr"] - 1.75) * 8 + abs(values["train.epochs"] - 3)
            study.tell(trial, -distance)
            best.add(distance)
        found += 0 in best
    assert found >= 8


def test_a_diverged_member_is_a_result_of_the_search(launch):
    diverging = launch._replace(sweep=Sweep(axes=(grid("optimizer.lr", (0.02, 1e30)),)))
    output = run(diverging, Optuna(trials=2))
    assert sorted(statuses(diverging).values()) == ["diverged", "finished"]
    assert "2 trials, 0 stopped early; best validation top-1" in output
