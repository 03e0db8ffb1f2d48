"""--launcher ray on a real cluster of two workers, one of which is killed while it trains."""

import functools
import io
import re
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
from tests.oracle.sweep_file import launch_of, table_of, write_sweep

ray = pytest.importorskip("ray", reason="ray is not installed; make oracle installs it")
start = functools.partial(cli.start_jax, "cpu", False)


@pytest.fixture(scope="module")
def cluster():
    """A cluster whose head trains nothing, with two workers of one CPU; yield it and the workers."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield made, [made.add_node(num_cpus=1) for _ in range(2)]
    finally:
        ray.shutdown()
        made.shutdown()


def run(launch, **options):
    console = Console(file=io.StringIO(), width=200)
    running.run(launch, console, **options)
    return console.file.getvalue()


def kill_when_both_train(made, worker, launch, killed):
    """Kill a worker as soon as two processes train and each has saved an epoch; keep what they held."""
    for _ in range(1200):
        folders = [RunFolder(path) for path in (launch.root / "members").glob("*")]
        open_ones = [run for run in folders if not run.finished and any(run.checkpoints.glob("*"))]
        holders = {text for run in open_ones if (text := (run.path / ".lock").read_text().strip())}
        if len(holders) == 2:
            made.remove_node(worker, allow_graceful=False)
            killed.extend(sorted(holders))
            return
        time.sleep(0.05)


def test_a_group_whose_worker_is_lost_too_often_has_failed(cluster, tmp_path):
    from cnnjax.sweep.launchers.on_ray import ray_launcher

    made, _ = cluster
    path = write_sweep(tmp_path, epochs=1)
    path.write_text(path.read_text() + "\nimport os, sys\nif 'default_worker' in sys.argv[0]:\n    os._exit(1)\n")
    launch = launch_of(path, tmp_path / "store")
    with pytest.raises(PartlyDone, match=r"2 of 2 members did not finish: train.batch_size=8, seed=0 \(failed\)"):
        run(launch, only=("train.batch_size=8",), launcher=ray_launcher(Ray(address=made.address, retries=1), start))
    assert [row["problem"][:37] for row in table_of(launch)[:2]] == ["RuntimeError: its worker was lost: Th"] * 2


def test_the_group_of_a_killed_worker_is_trained_again_with_the_same_bits(cluster, tmp_path):
    from cnnjax.sweep.launchers.on_ray import ray_launcher

    made, workers = cluster
    path, killed = write_sweep(tmp_path, epochs=8), []
    launch = launch_of(path, tmp_path / "ray")
    killer = threading.Thread(target=kill_when_both_train, args=(made, workers[0], launch, killed))
    killer.start()
    output = run(launch, launcher=ray_launcher(Ray(address=made.address), start))
    killer.join()
    assert len(killed) == 2, "the sweep ended before both workers trained"
    assert "4 members: 0 done, 4 to train" in output
    assert len(re.findall(r"^\d/4 ", output, re.MULTILINE)) == 4
    starts = [len(read_json(folder / "environment.json")) for folder in (launch.root / "members").iterdir()]
    assert max(starts) > 1, "no member was resumed"
    here = launch_of(path, tmp_path / "here")
    run(here)
    assert table_of(launch) == table_of(here)
    assert "0 to train" in run(launch, launcher=ray_launcher(Ray(address=made.address), start))
