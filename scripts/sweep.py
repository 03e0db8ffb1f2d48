"""Train all members of a sweep, or those that are missing, and write one table and one page.

usage: python scripts/sweep.py NAME [OPTIONS]

NAME is a name from the list below, or the path of your own Python file (it is executed), which defines an `experiment`
and a `sweep`. `python scripts/sweep.py NAME --help` shows the options. Repeat the same command to resume: finished
members are kept, and interrupted ones resume from their checkpoints.
"""

from pathlib import Path
from typing import Annotated, Any

import tyro

from cnnjax import cli


def sweep(arguments: list[str]) -> None:
    """Parse the command line, train, print."""
    if not arguments or arguments[0] in ("-h", "--help"):
        listed = "\n".join(f"  {name:<24} {title}" for name, title in cli.list_sweeps().items())
        print(f"{__doc__}\nsweeps:\n{listed}")
        return
    name = cli.first(arguments, "sweep")
    parsed = cli.parse(options, arguments[1:], f"scripts/sweep.py {name}")
    only, dry_run, out, data_dir, parquet, platform, deterministic = parsed
    loaded = cli.load_sweep(name)

    from rich.console import Console  # imported late to keep --help fast

    from cnnjax.sweep import cost, running
    from cnnjax.system.stdio import lasting_output

    cli.start_jax(platform, deterministic, loaded.experiment.model)
    base = loaded.experiment
    if data_dir is not None:
        base = base.replace(data=base.data.replace(dir=data_dir))
    launch = running.SweepLaunch(loaded.name, loaded.title, base, loaded.sweep, out, loaded.definitions)
    with lasting_output() as output:
        console = Console(file=output)
        if dry_run:
            cost.show(launch, console, only)
        else:
            running.run(launch, console, only, parquet=parquet, resume_command=cli.resume_command())


def options(
    *,
    only: tuple[str, ...] = (),
    dry_run: bool = False,
    out: Path = Path("runs/sweeps"),
    data_dir: Annotated[str | None, tyro.conf.arg(name="data.dir")] = None,
    parquet: bool = False,
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
        platform: Device to compute on; auto picks an accelerator if there is one.
        deterministic: Use only deterministic GPU kernels, which may be slower; on a CPU results are always
            deterministic.
        debug: Show the traceback of an error.
    """
    return only, dry_run, out, data_dir, parquet, platform, deterministic


if __name__ == "__main__":
    cli.main(sweep)
