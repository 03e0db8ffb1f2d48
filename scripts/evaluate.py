"""Judge a trained network on one part of its data.

usage: python scripts/evaluate.py RUN [--split test|validation|train] [--data.dir DIR]

RUN is a run's folder, such as runs/lenet_mini. Prints loss, top-1, top-5, the expected calibration error, and
precision, recall and F1 of each class, of the best parameters by validation.
"""

from pathlib import Path
from typing import Literal

from cnnjax import cli
from cnnjax.errors import UserError


def evaluate(arguments: list[str]) -> None:
    """Read the command line, evaluate, print."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    run = Path(cli.first(arguments, "run's folder"))

    from rich.console import Console

    from cnnjax import data
    from cnnjax.config import Data
    from cnnjax.runs import evaluation, predictor
    from cnnjax.runs.folder import recorded_data

    recorded = recorded_data(run)
    default = recorded or Data()
    named = any(argument.startswith("--data.source") for argument in arguments)
    if named:  # other data, in another place
        default = default.replace(dir=None)

    def options(
        *,
        split: Literal["train", "validation", "test"] = "test",
        data: Data = default,
        platform: cli.Platform = "auto",
        debug: bool = False,
    ) -> tuple[str, Data, cli.Platform]:
        """Judge a trained network on one part of its data.

        Args:
            split: The part to judge it on.
            data: The run's own data unless it is said otherwise.
            platform: What to compute on; auto takes an accelerator where there is one.
            debug: Show the traceback of an error.
        """
        return split, data, platform

    split, config, platform = cli.parse(options, arguments[1:], f"scripts/evaluate.py {run}")
    cli.start_jax(platform)
    network = predictor.load(run)
    if recorded is None and not named:
        raise UserError(f"{run} does not say which data it was trained on (no config.json); give --data.source NAME")
    evaluation.print_report(network, data.load(config), split, Console())


if __name__ == "__main__":
    cli.main(evaluate)
