"""--launcher slurm by submitit's local executor: the array of tasks, one that is preempted, and the same bits."""

import functools
import io

import pytest
from rich.console import Console

from cnnjax import cli
from cnnjax.errors import UserError
from cnnjax.sweep import running
from cnnjax.sweep.options import Slurm
from tests.oracle.sweep_file import as_this_process, launch_of, table_of, write_sweep

submitit = pytest.importorskip("submitit", reason="submitit is not installed; make oracle installs it")
from cnnjax.sweep.launchers import on_slurm  # noqa: E402

start = functools.partial(cli.start_jax, "cpu", False)


def run(launch, **options):
    console = Console(file=io.StringIO(), width=200)
    running.run(launch, console, **options)
    return console.file.getvalue()


def test_tasks_of_an_array_train_the_groups_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv(*as_this_process())
    path = write_sweep(tmp_path, epochs=2)
    launch = launch_of(path, tmp_path / "slurm")
    output = run(launch, launcher=on_slurm.slurm_launcher(Slurm(local=True), launch, start))
    assert "4 members: 0 done, 4 to train" in output
    assert output.count("test top-1") == 4
    assert len(list((launch.folder / "slurm").glob("*_result.pkl"))) == 2
    here = launch_of(path, tmp_path / "here")
    run(here)
    assert table_of(launch) == table_of(here)


def test_the_options_are_those_of_the_array_job(tmp_path, monkeypatch):
    """With stand-ins for srun and sbatch on the path, submitit writes the script and submits it."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("srun", "exit 0"), ("sbatch", "echo Submitted batch job 7")):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    options = Slurm(partition="gpu", account="lab", minutes=90, cpus=3, gpus=1, memory=12, tasks=5)
    executor = on_slurm.executor(options, tmp_path / "jobs", "two")
    jobs = executor.map_array(on_slurm.Task(), [1, 2])
    assert [job.job_id for job in jobs] == ["7_0", "7_1"]
    scripts = sorted((tmp_path / "jobs").glob("*submission*.sh"))  # one for the array, or a copy for each task
    text = scripts[0].read_text()
    for line in ("job-name=two", "partition=gpu", "account=lab", "time=90", "cpus-per-task=3", "gpus-per-node=1",
                 "mem=12GB", "array=0-1%2"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in text, text


def test_a_machine_without_slurm_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    launch = launch_of(write_sweep(tmp_path, epochs=1), tmp_path / "store")
    with pytest.raises(UserError, match="this machine has no sbatch; run it on a login node"):
        on_slurm.slurm_launcher(Slurm(), launch, start)
    assert not launch.root.exists()
