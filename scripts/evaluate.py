"""Evaluate a trained network on one split of its data.

usage: python scripts/evaluate.py RUN [--split test|validation|train] [--data.dir DIR]

RUN is a run folder, such as runs/lenet_mini. Prints loss, top-1, top-5, the expected calibration error, and precision,
recall and F1 of each class, for the parameters that were best on the validation split.
"""

from pathlib import Path
from typing import Literal

from cnnjax import cli
from cnnjax.errors import UserError, printable


def evaluate(arguments: list[str]) -> None:
    """Parse the command line, evaluate, print."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    run = Path(cli.first(arguments, "run folder"))

    from rich.console import Console

    import cnnjax
    from cnnjax.config import Data
    from cnnjax.runs import evaluation
    from cnnjax.runs.definitions import of_run
    from cnnjax.runs.folder import recorded_data

    code, trust_code = cli.code_options(arguments)
    recorded = recorded_data(run, of_run(run, code, trust_code))
    default = recorded or Data()
    other_data = any(argument.startswith("--data.source") for argument in arguments)
    if other_data:  # it is in another folder
        default = default.replace(dir=None)

    def options(
        *,
        split: Literal["train", "validation", "test"] = "test",
        data: Data = default,
        platform: cli.Platform = "auto",
        code: Path | None = None,
        trust_code: bool = False,
        debug: bool = False,
    ) -> tuple[str, Data, cli.Platform]:
        """Evaluate a trained network on one split of its data.

        Args:
            split: The split to evaluate on.
            data: The data to evaluate on; by default the data of the run.
            platform: Device to compute on; auto picks an accelerator if there is one.
            code: The experiment file that defines the run's network, loss or data set. It is executed.
            trust_code: Execute the copy of that file in the run folder; only for folders that you trust.
            debug: Show the traceback of an error.
        """
        return split, data, platform

    split, config, platform = cli.parse(options, arguments[1:], f"scripts/evaluate.py {run}")
    cli.start_jax(platform)
    loaded = cnnjax.load(run, code=code, trust_code=trust_code, prepare=cli.use_precision)
    if recorded is None and not other_data:
        raise UserError(f"{run} does not record which data it was trained on (no config.json); give --data.source NAME")
    dataset = loaded.dataset(config, divide=split != "test")
    for notice in dataset.notices:
        print("notice:", printable(notice))
    report = evaluation.evaluate(loaded.network, dataset, split)
    if difference := evaluation.compare(loaded.network, dataset, split):
        print("notice:", printable(difference))
    evaluation.print_report(report, loaded.network, dataset, split, Console())


if __name__ == "__main__":
    cli.main(evaluate)
