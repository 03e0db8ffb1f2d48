"""Groups as jobs of other processes: what a worker is given and returns, lost workers, missing packages.

tests/oracle runs the same jobs on a Ray cluster and by submitit.
"""

import csv
import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cnnjax import cli
from cnnjax.errors import PartlyDone, UserError
from cnnjax.sweep import running, store
from cnnjax.sweep.launchers.jobs import launcher, train
from cnnjax.sweep.running import SweepLaunch
from tests.faults.harness import write_digits
from tests.script import run_script

FILE = '''"""Two networks, two seeds."""

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Train
from cnnjax.sweep import Sweep, grid

experiment = Experiment(
    model=create("mlp", input_size=12),
    data=Data(source="mnist", validation=0.2),
    optimizer=Optimizer(name="momentum", lr=0.05),
    train=Train(epochs=1, batch_size=32, eval_batch_size=80),
)
sweep = Sweep(axes=(grid("model.activation", ("relu", "tanh")), grid("seed", range(2))))
'''


pytestmark = pytest.mark.usefixtures("no_sweep_figures")


@pytest.fixture
def launch(tmp_path):
    write_digits(tmp_path / "digits")
    (tmp_path / "two.py").write_text(FILE)
    loaded = cli.load_sweep(str(tmp_path / "two.py"))
    base = loaded.experiment.replace(data=loaded.experiment.data.replace(dir=str(tmp_path / "digits")))
    return SweepLaunch(
        loaded.name, loaded.title, base, loaded.sweep, tmp_path / "store", loaded.definitions, loaded.path
    )


def run(launch, execute, **options):
    console = Console(file=io.StringIO(), width=200)
    running.run(launch, console, launcher=launcher(lambda model: None, execute), **options)
    return console.file.getvalue()


def status(launch):
    rows = csv.DictReader((launch.folder / "sweep.csv").read_text().splitlines())
    return [(row["status"], row["problem"]) for row in rows]


@pytest.mark.trains_long
def test_each_group_is_a_job_whose_members_a_worker_trains(launch):
    seen = []

    def execute(jobs):
        seen.extend(jobs)
        for job in reversed(jobs):
            yield job, train(job)

    output = run(launch, execute)
    assert [len(job.members) for job in seen] == [2, 2]
    assert seen[0].file == launch.file
    assert seen[0].data_dir == str(Path(launch.base.data.dir).resolve())
    assert "1/4  model.activation=tanh, seed=0: test top-1 " in output
    assert status(launch) == [("finished", "")] * 4
    assert "4 done, 0 to train" in run(launch, execute)


@pytest.mark.trains_long
def test_a_lost_worker_leaves_its_unfinished_members_failed(launch):
    def execute(jobs):
        train(jobs[0]._replace(members=jobs[0].members[:1]))
        for job in jobs:
            yield job, RuntimeError("its worker was lost: killed")

    with pytest.raises(PartlyDone, match=r"3 of 4 members did not finish: model.activation=relu, seed=1 \(failed\)"):
        run(launch, execute)
    assert status(launch) == [("finished", ""), *[("failed", "RuntimeError: its worker was lost: killed")] * 3]


def test_a_changed_file_is_refused_by_the_worker(launch):
    def execute(jobs):
        launch.file.write_text(FILE.replace("range(2)", "range(1)"))
        for job in jobs:
            with pytest.raises(UserError, match="two.py has changed since the sweep was started; start it again"):
                train(job)
            yield job, UserError("the file has changed")

    with pytest.raises(PartlyDone, match="4 of 4 members"):
        run(launch, execute)
    assert not (launch.root / store.MEMBERS).exists()


@pytest.mark.parametrize(
    ("options", "package", "message"),
    [
        (("--launcher", "ray"), "ray", "--launcher ray needs ray; install it with pip install -e .[ray]"),
        (("--launcher", "slurm"), "submitit", "--launcher slurm needs submitit; install it with pip install -e .[slu"),
        (("--search", "optuna"), "optuna", "--search optuna needs optuna; install it with pip install -e .[optuna]"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch, options, package, message):
    monkeypatch.setitem(sys.modules, package, None)
    done = run_script("sweep.py", "smoke", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())
