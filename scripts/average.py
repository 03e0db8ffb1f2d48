"""Average the parameters of several checkpoints of a run.

usage: python scripts/average.py RUN --last N [--out OUT]
       python scripts/average.py RUN --epochs 8 9 10 [--out OUT]

RUN keeps its newest checkpoints, as many as --train.keep says. OUT, by default RUN-average, is a new folder for
scripts/evaluate.py, predict.py, export.py and probe.py. The running statistics of batch norms are recomputed over the
training images, or averaged if these cannot be read.
"""

from pathlib import Path
from typing import Literal

import tyro

from cnnjax import cli
from cnnjax.errors import UserError, printable


def average(arguments: list[str]) -> None:
    """Parse the command line, average, print."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return

    def options(
        run: tyro.conf.Positional[Path],
        *,
        last: int | None = None,
        epochs: tuple[int, ...] = (),
        out: Path | None = None,
        statistics: Literal["auto", "recomputed", "averaged"] = "auto",
        parameters: Literal["auto", "ema", "raw"] = "auto",
        data_dir: str | None = None,
        platform: cli.Platform = "auto",
        code: Path | None = None,
        trust_code: bool = False,
        debug: bool = False,
    ) -> tuple[Path, int | None, tuple[int, ...], Path | None, str, Literal["auto", "ema", "raw"], str | None, str]:
        """Average the parameters of several checkpoints of a run.

        Args:
            run: The run folder, such as runs/lenet_mini.
            last: Number of newest checkpoints to average, 2 or more.
            epochs: The epochs to average instead; give two or more.
            out: The folder to create; by default RUN-average.
            statistics: Running statistics of batch norms. recomputed: over the training images; averaged: like the
                parameters; auto: recomputed if the training images can be read.
            parameters: For a run with moving averages: auto and ema average these, raw the trained parameters.
            data_dir: Folder of the run's data, if it has moved.
            platform: Device to compute on; auto picks an accelerator if there is one.
            code: The experiment file that defines the run's network or data set. It is executed.
            trust_code: Execute the copy of that file in the run folder; only for folders that you trust.
            debug: Show the traceback of an error.
        """
        return run, last, epochs, out, statistics, parameters, data_dir, platform

    request = cli.parse(options, arguments, "scripts/average.py")
    run, last, epochs, out, statistics, parameters, data_dir, platform = request
    cli.start_jax(platform)  # type: ignore[arg-type]

    import cnnjax
    from cnnjax.runs import averaging, evaluation
    from cnnjax.runs.definitions import of_run
    from cnnjax.runs.folder import recorded_data
    from cnnjax.system.files import require_empty

    code, trust_code = cli.code_options(arguments)
    definitions = of_run(run, code, trust_code)
    out = out or run.resolve().with_name(f"{run.resolve().name}-average")
    require_empty(out)
    checkpoints = averaging.select_checkpoints(run, last, epochs)
    mean = averaging.average(run, checkpoints, definitions, parameters, cli.use_precision)
    kind: averaging.Statistics = "averaged"
    if mean.variables.batch_stats and statistics != "averaged":
        config = recorded_data(run, definitions)
        if config is not None and data_dir is not None:
            config = config.replace(dir=data_dir)
        try:
            loaded = cnnjax.Run(run, definitions)
            dataset = loaded.dataset(config)
            evaluation.compare(loaded.network, dataset, "train")
            stats = averaging.recomputed_statistics(mean, dataset)
            mean, kind = mean._replace(variables=mean.variables._replace(batch_stats=stats)), "recomputed"
        except UserError as error:
            if statistics == "recomputed":
                raise
            print(f"notice: the batch statistics are averaged, because {printable(str(error))}")
    averaging.write_average(mean, out, kind)
    listed = ", ".join(map(str, mean.epochs))
    norms = f", batch statistics {kind}" if mean.variables.batch_stats else ""
    print(f"{out}: the mean of epochs {listed} of {run}{norms}")


if __name__ == "__main__":
    cli.main(average)
