"""Train the network of an experiment, or resume an interrupted run.

usage: python scripts/train.py EXPERIMENT [OPTIONS]

EXPERIMENT is a name from the list below, the path of your own Python file (it is executed), or a run folder or its
config.json (read as data). `python scripts/train.py EXPERIMENT --help` shows every option with its default. Repeat the
same command to resume an interrupted run. `--continue-from RUN` starts a new run from the last state of another one.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cnnjax import cli
from cnnjax.system import supervisor

RESUMED_WITHOUT = "--resume", "--profile"
"""Options that the command to resume leaves out."""


def train(arguments: list[str]) -> None:
    """Parse the command line, train, print."""
    if not arguments or arguments[0] in ("-h", "--help"):
        listed = "\n".join(f"  {name:<22} {title}" for name, title in cli.list_experiments().items())
        print(f"{__doc__}\nexperiments:\n{listed}")
        return
    if "--coordinator" in cli.option_names(arguments):
        if not supervisor.is_supervised():
            raise SystemExit(supervisor.supervise(cli.resume_command(RESUMED_WITHOUT), keep_log="--debug" in arguments))
        supervisor.obey()
    name, base, definitions = cli.load_experiment(cli.first(arguments, "experiment"), *cli.code_options(arguments))
    rest, model = cli.take_option(arguments[1:], "--model")
    rest, start = cli.take_option(rest, "--init")
    rest, continued = cli.take_option(rest, "--continue-from")
    rest, phases = cli.take_option(rest, "--phases")

    from cnnjax.config import Experiment

    chosen = cli.start_from(cli.first_phases(cli.replace_model(base, model), phases), start)
    if continued is not None:
        chosen = chosen.replace(continue_from=str(Path(continued).resolve()))

    def options(
        experiment: Annotated[
            Experiment[type(chosen.model), type(chosen.loss)],  # type: ignore[valid-type]
            tyro.conf.arg(name=""),
        ] = chosen,
        *,
        out: Path | None = None,
        resume: Literal["auto", "never"] = "auto",
        platform: cli.Platform = "auto",
        devices: int | None = None,
        coordinator: str | None = None,
        num_processes: int | None = None,
        process_id: int | None = None,
        connect_timeout: int = 300,
        loggers: tuple[str, ...] = (),
        profile: str | None = None,
        find_lr: bool = False,
        find_lr_steps: int | None = None,
        deterministic: bool = False,
        code: Path | None = None,
        trust_code: bool = False,
        debug: bool = False,
    ) -> Any:
        """Train, or resume an interrupted run.

        Args:
            experiment: The experiment to train.
            out: The run folder; by default runs/NAME, where NAME includes the overridden values.
            resume: auto resumes the run in the folder; never refuses a folder that holds a run.
            platform: Device to compute on; auto picks an accelerator if there is one.
            devices: Number of devices to train on, by default all; each computes an equal share of every batch.
            coordinator: HOST:PORT of process 0, to train on several hosts: start the same command on each of them; or
                auto in a SLURM job, on a TPU pod and with Open MPI. Only process 0 writes the run folder.
            num_processes: Number of processes.
            process_id: Number of this process, from 0.
            connect_timeout: Seconds that a process waits for the others at the start.
            loggers: Where to write the metrics of each epoch besides metrics.jsonl: tensorboard, wandb.
            profile: Steps to profile, such as 10:20 (10 to 19, counted from 0 when this process starts training). JAX's
                profiler writes a trace to the run folder; results do not change.
            find_lr: Instead of training, test learning rates from 1e-6 to 10 on a copy of the initial state for one
                epoch, and suggest one. The curve is written beside the run folder, which does not change.
            find_lr_steps: Number of steps of that test, 20 or more.
            deterministic: Use only deterministic GPU kernels, which may be slower; on a CPU results are always
                deterministic.
            code: The experiment file that defines the network, loss or data set of a run folder. It is executed.
            trust_code: Execute the copy of that file in the run folder; only for folders that you trust.
            debug: Show the traceback of an error.
        """
        hosts = coordinator, num_processes, process_id, connect_timeout
        search = find_lr, find_lr_steps
        return experiment, out, resume, platform, devices, hosts, loggers, profile, search, deterministic

    description = (
        "Before the other options apply: --model NAME replaces the network with another variant, --init run:RUN, "
        "file:WEIGHTS or NAME starts from trained parameters, --continue-from RUN starts from the last state of a run, "
        "and --phases N keeps the first N phases."
    )
    prog = f"scripts/train.py {arguments[0]}"
    parsed = cli.parse(options, rest, prog, description=description)
    experiment, out, resume, platform, devices, hosts, loggers, profile, search, deterministic = parsed
    find_lr, find_lr_steps = search

    from rich.console import Console  # imported late to keep --help fast

    import cnnjax
    from cnnjax.errors import UserError
    from cnnjax.parallel.processes import coordinator_of
    from cnnjax.runs.naming import run_name, short_origin
    from cnnjax.system.stdio import lasting_output
    from cnnjax.training.profiling import read_steps

    if find_lr_steps is not None and not find_lr:
        raise UserError(f"--find-lr-steps is {find_lr_steps} without --find-lr; add it")
    if find_lr and profile is not None:
        raise UserError("--profile and --find-lr are both given; give one of them")
    profiled = None if profile is None else read_steps(profile)
    coordinator = coordinator_of(*hosts)
    if find_lr and coordinator is not None:
        raise UserError("--find-lr and --coordinator are both given; test learning rates on one host")
    cli.start_jax(platform, deterministic, experiment.model, devices, coordinator)
    replaced = {"model": model, "init": start and short_origin(start), "phases": phases}
    replaced["continue-from"] = continued and Path(continued).resolve().name.partition(",")[0]
    named = ",".join([name, *(f"{option}={value}" for option, value in replaced.items() if value)])
    full_name = run_name(named, chosen, experiment)
    if find_lr:
        from cnnjax.runs.find_lr import find_learning_rate
        from cnnjax.runs.launch import Launch

        launch = Launch(full_name, experiment, out or Path("runs") / full_name, definitions)
        find_learning_rate(launch, Console(), find_lr_steps)
        return
    with lasting_output() as output:
        cnnjax.train(
            experiment, out or Path("runs") / full_name, name=full_name, resume=resume, profile=profiled,
            definitions=definitions, console=Console(file=output),
            resume_command=cli.resume_command(RESUMED_WITHOUT), loggers=loggers,
        )  # fmt: skip


if __name__ == "__main__":
    cli.main(train)
