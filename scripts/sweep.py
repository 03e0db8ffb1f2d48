"""Train all members of a sweep, or those that are missing, and write one table and one page.

usage: python scripts/sweep.py NAME [OPTIONS]

NAME is a name from the list below, or the path of your own Python file (it is executed), which defines an `experiment`
and a `sweep`. `python scripts/sweep.py NAME --help` shows the options. Repeat the same command to resume: finished
members are kept, and interrupted ones resume from their checkpoints.
"""

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cnnjax import cli
from cnnjax.errors import UserError
from cnnjax.sweep.options import LauncherName, Optuna, Ray, Slurm, require_package


def sweep(arguments: list[str]) -> None:
    """Parse the command line, train, print."""
    if not arguments or arguments[0] in ("-h", "--help"):
        listed = "\n".join(f"  {name:<24} {title}" for name, title in cli.list_sweeps().items())
        print(f"{__doc__}\nsweeps:\n{listed}")
        return
    name = cli.first(arguments, "sweep")
    parsed = cli.parse(options, arguments[1:], f"scripts/sweep.py {name}")
    only, dry_run, out, data_dir, parquet, launcher, ray, slurm, search, optuna, platform, deterministic = parsed
    if launcher != "local":
        require_package("--launcher", launcher)
    if search != "none":
        require_package("--search", search)
        if launcher != "local":
            raise UserError(f"--search {search} is given with --launcher {launcher}; leave out one of them")
    loaded = cli.load_sweep(name)

    from rich.console import Console  # imported late to keep --help fast

    from cnnjax.sweep import cost, running
    from cnnjax.system.stdio import lasting_output

    cli.start_jax(platform, deterministic, loaded.experiment.model)
    base = loaded.experiment
    if data_dir is not None:
        base = base.replace(data=base.data.replace(dir=data_dir))
    launch = running.SweepLaunch(loaded.name, loaded.title, base, loaded.sweep, out, loaded.definitions, loaded.path)
    with lasting_output() as output:
        console = Console(file=output)
        if dry_run:
            cost.show(launch, console, only)
        else:
            start = functools.partial(cli.start_jax, platform, deterministic)
            chosen: running.Launcher | None = None
            if search == "optuna":
                from cnnjax.sweep.search import search_launcher

                chosen = search_launcher(optuna, only)
            elif launcher == "ray":
                from cnnjax.sweep.launchers.on_ray import ray_launcher

                chosen = ray_launcher(ray, start)
            elif launcher == "slurm":
                from cnnjax.sweep.launchers.on_slurm import slurm_launcher

                chosen = slurm_launcher(slurm, launch, start)
            running.run(
                launch, console, only, parquet=parquet, resume_command=cli.resume_command(), launcher=chosen,
                searches=search != "none",
            )  # fmt: skip


def options(
    *,
    only: tuple[str, ...] = (),
    dry_run: bool = False,
    out: Path = Path("runs/sweeps"),
    data_dir: Annotated[str | None, tyro.conf.arg(name="data.dir")] = None,
    parquet: bool = False,
    launcher: LauncherName = "local",
    ray: Ray = Ray(),  # noqa: B008
    slurm: Slurm = Slurm(),  # noqa: B008
    search: Literal["none", "optuna"] = "none",
    optuna: Optuna = Optuna(),  # noqa: B008
    platform: cli.Platform = "auto",
    deterministic: bool = False,
    debug: bool = False,
) -> Any:
    """Train all members of a sweep, or those that are missing. Exit code 1: some diverged or failed; they are listed.

    Args:
        only: Train only the members with these values, each given as AXIS=VALUE, such as model.activation=relu; several
            values of one axis select the members with any of them.
        dry_run: Print the members, the groups that share a program, and the estimated cost; train nothing.
        out: The folder of the store. It holds members/, which all sweeps share, and a folder for each sweep.
        data_dir: The folder (or zip) that holds the data set's files.
        parquet: Write sweep.parquet as well as sweep.csv; needs pyarrow.
        launcher: Where the groups of members train: in this process, as tasks of a Ray cluster, or as an array job of
            Slurm. The file, the store and the data need the same path on every machine.
        ray: Options of --launcher ray.
        slurm: Options of --launcher slurm.
        search: none trains all members; optuna trains those that a search proposes by their validation top-1, with the
            first value of a seed axis.
        optuna: Options of --search optuna.
        platform: Device to compute on; auto picks an accelerator if there is one.
        deterministic: Use only deterministic GPU kernels, which may be slower; on a CPU results are always
            deterministic.
        debug: Show the traceback of an error.
    """
    return only, dry_run, out, data_dir, parquet, launcher, ray, slurm, search, optuna, platform, deterministic


if __name__ == "__main__":
    cli.main(sweep)
