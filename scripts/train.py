"""Train the network of an experiment, or continue where a training stopped.

usage: python scripts/train.py EXPERIMENT [OPTIONS]

EXPERIMENT is a name from the list below, the path of your own Python file (it is run), or a run's folder or config.json
(read as data). `python scripts/train.py EXPERIMENT --help` shows every option with its default. The same command again
continues a run that was interrupted.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cnnjax import cli


def train(arguments: list[str]) -> None:
    """Read the command line, train, print."""
    if not arguments or arguments[0] in ("-h", "--help"):
        listed = "\n".join(f"  {name:<16} {title}" for name, title in cli.list_experiments().items())
        print(f"{__doc__}\nexperiments:\n{listed}")
        return
    name, base, definitions = cli.load_experiment(cli.first(arguments, "experiment"), *cli.code_options(arguments))
    rest, model = cli.take_option(arguments[1:], "--model")

    from cnnjax.config import Experiment

    chosen = cli.replace_model(base, model)

    def options(
        experiment: Annotated[
            Experiment[type(chosen.model), type(chosen.loss)],  # type: ignore[valid-type]
            tyro.conf.arg(name=""),
        ] = chosen,
        *,
        out: Path | None = None,
        resume: Literal["auto", "never"] = "auto",
        platform: cli.Platform = "auto",
        profile: str | None = None,
        deterministic: bool = False,
        code: Path | None = None,
        trust_code: bool = False,
        debug: bool = False,
    ) -> Any:
        """Train, or continue where a training stopped.

        Args:
            experiment: What is trained, and how.
            out: The run's folder; without it runs/NAME, with the overridden values in the name.
            resume: auto continues the run in the folder; never refuses a folder that holds one.
            platform: What to compute on; auto takes an accelerator where there is one.
            profile: Steps such as 10:20 (10 to 19, counted from 0 at this start), of which JAX's profiler writes a
                trace to the run's folder; the results stay the same.
            deterministic: On a GPU compute only in ways that give the same bits each time, which may be slower; a CPU
                always does.
            code: For a run's folder: the experiment file that defines its network, loss or data set. It is run.
            trust_code: For a run's folder that you trust: run the copy of that file that lies in it.
            debug: Show the traceback of an error.
        """
        return experiment, out, resume, platform, profile, deterministic

    description = "--model NAME, given first, puts another variant in the network's place."
    prog = f"scripts/train.py {arguments[0]}"
    parsed = cli.parse(options, rest, prog, description=description)
    experiment, out, resume, platform, profile, deterministic = parsed

    from rich.console import Console  # after --help, which need not wait for these

    import cnnjax
    from cnnjax.runs.naming import run_name
    from cnnjax.system.stdio import lasting_output
    from cnnjax.training.profiling import read_steps

    profiled = None if profile is None else read_steps(profile)
    cli.start_jax(platform, deterministic, experiment.model)
    full_name = run_name(f"{name},model={model}" if model else name, chosen, experiment)
    with lasting_output() as output:
        cnnjax.train(
            experiment, out or Path("runs") / full_name, name=full_name, resume=resume, profile=profiled,
            definitions=definitions, console=Console(file=output),
            resume_command=cli.resume_command(without=("--resume", "--profile")),
        )  # fmt: skip


if __name__ == "__main__":
    cli.main(train)
