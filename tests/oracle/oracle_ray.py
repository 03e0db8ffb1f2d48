"""--launcher ray on a real local cluster of two workers, one of which is killed while it trains."""

import functools
import io
import os
import re
import signal
import threading
import time

import pytest
from rich.console import Console

from cnnjax import cli
from cnnjax.errors import PartlyDone
from cnnjax.runs.folder import RunFolder
from cnnjax.sweep import running
from cnnjax.sweep.options import Ray
from cnnjax.system.files import read_json
from tests.oracle.sweep_file import as_this_process, launch_of, table_of, write_sweep

ray = pytest.importorskip("ray", reason="ray is not installed; make oracle installs it")
start = functools.partial(cli.start_jax, "cpu", False)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A cluster of two workers with one CPU each, which compile as this process does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*as_this_process())
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def run(launch, options=Ray(), **others):  # noqa: B008
    from cnnjax.sweep.launchers.on_ray import ray_launcher

    console = Console(file=io.StringIO(), width=200)
    running.run(launch, console, launcher=ray_launcher(options, start), **others)
    return console.file.getvalue()


def holders(launch):
    """Return the processes that train a member with a saved epoch."""
    folders = [RunFolder(path) for path in (launch.root / "members").glob("*")]
    open_ones = [run for run in folders if not run.finished and any(run.checkpoints.glob("step-*"))]
    matches = [re.match(r"pid (\d+) on host", (run.path / ".lock").read_text()) for run in open_ones]
    return {int(match[1]) for match in matches if match}


def kill_when_both_train(launch, killed, seconds=600):
    """Kill one of two workers as soon as both train and have saved an epoch."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not killed:
        if len(pids := holders(launch)) == 2:
            killed.append(min(pids))
            os.kill(killed[0], signal.SIGKILL)
        time.sleep(0.02)


def test_the_group_of_a_killed_worker_is_trained_again_with_the_same_bits(tmp_path):
    path, killed = write_sweep(tmp_path, epochs=8), []
    launch = launch_of(path, tmp_path / "ray")
    killer = threading.Thread(target=kill_when_both_train, args=(launch, killed), daemon=True)
    killer.start()
    output = run(launch)
    assert killed, "the sweep ended before both workers trained"
    assert "4 members: 0 done, 4 to train" in output
    assert len(re.findall(r"^\d/4 ", output, re.MULTILINE)) == 4
    starts = [len(read_json(folder / "environment.json")) for folder in (launch.root / "members").iterdir()]
    assert max(starts) == 2, "no member was resumed"
    here = launch_of(path, tmp_path / "here")
    running.run(here, Console(file=io.StringIO()))
    assert table_of(launch) == table_of(here)
    assert "0 to train" in run(launch)


def test_a_group_whose_worker_is_lost_too_often_has_failed(tmp_path):
    path = write_sweep(tmp_path, epochs=1)
    path.write_text(f"{path.read_text()}\nimport os\nif os.getpid() != {os.getpid()}:\n    os._exit(1)\n")
    launch = launch_of(path, tmp_path / "store")
    with pytest.raises(PartlyDone, match=r"2 of 2 members did not finish: train.batch_size=8, seed=0 \(failed\)"):
        run(launch, Ray(retries=1), only=("train.batch_size=8",))
    assert [row["problem"][:35] for row in table_of(launch)[:2]] == ["RuntimeError: its worker was lost: "] * 2
