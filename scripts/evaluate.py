"""Evaluate a trained network on one split of its data, or a published network on labeled images.

usage: python scripts/evaluate.py RUN [--split test|validation|train] [--views 1|2|6] [--data.dir DIR]
       python scripts/evaluate.py --pretrained NAME --data.source image_folder:DIR [--ground-truth FILE] [--views 1|2|6]
       python scripts/evaluate.py --all PATTERN --data.source image_folder:DIR [--out evaluation.csv]

RUN is a run folder, such as runs/lenet_mini. Prints loss, top-1, top-5, the expected calibration error, and precision,
recall and F1 of each class, for the parameters that were best on the validation split.

NAME is a published network (python scripts/pretrained.py list), or folder:DIR or hf:OWNER/NAME. Prints top-1 and top-5
next to the published figures. The folders in DIR are named after the classes: by name, by id or by number from 0. --all
evaluates every published network that matches a pattern such as "resnet*", and writes one CSV file.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from cnnjax import cli
from cnnjax.errors import PartlyDone, UserError, counted, printable


def evaluate(arguments: list[str]) -> None:
    """Parse the command line, evaluate, print."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    for option in ("--pretrained", "--all"):
        rest, name = cli.take_option(arguments, option)
        if name is not None:
            evaluate_published(option, name, rest)
            return
    run = Path(cli.first(arguments, "run folder"))

    from rich.console import Console

    import cnnjax
    from cnnjax.config import Data
    from cnnjax.runs import evaluation, predictor
    from cnnjax.runs.definitions import of_run
    from cnnjax.runs.folder import recorded_data

    code, trust_code = cli.code_options(arguments)
    definitions = of_run(run, code, trust_code)
    recorded = recorded_data(run, definitions)
    default = recorded or Data()
    other_data = any(argument.startswith("--data.source") for argument in arguments)
    if other_data:  # it is in another folder
        default = default.replace(dir=None)

    def options(
        *,
        split: Literal["train", "validation", "test"] = "test",
        data: Data = default,
        parameters: Literal["auto", "ema", "raw"] = "auto",
        views: Literal[1, 2, 6] = 1,
        platform: cli.Platform = "auto",
        code: Path | None = None,
        trust_code: bool = False,
        debug: bool = False,
    ) -> tuple[str, Data, Literal["auto", "ema", "raw"], Literal[1, 2, 6], cli.Platform]:
        """Evaluate a trained network on one split of its data.

        Args:
            split: The split to evaluate on.
            data: The data to evaluate on; by default the data of the run.
            parameters: For a run with moving averages: auto and ema use these, raw the trained parameters.
            views: Views of each image whose mean logits classify it. 2: the image and its mirror image; 6: also both
                shifted by a pixel to the lower right and to the upper left.
            platform: Device to compute on; auto picks an accelerator if there is one.
            code: The experiment file that defines the run's network, loss or data set. It is executed.
            trust_code: Execute the copy of that file in the run folder; only for folders that you trust.
            debug: Show the traceback of an error.
        """
        return split, data, parameters, views, platform

    split, config, parameters, views, platform = cli.parse(options, arguments[1:], f"scripts/evaluate.py {run}")
    cli.start_jax(platform)
    loaded = cnnjax.Run(run, definitions, predictor.load(run, definitions, cli.use_precision, parameters))
    if recorded is None and not other_data:
        raise UserError(f"{run} does not record which data it was trained on (no config.json); give --data.source NAME")
    dataset = loaded.dataset(config, divide=split != "test")
    for notice in dataset.notices:
        print("notice:", printable(notice))
    network = dataclasses.replace(loaded.network, views=views)
    report = evaluation.evaluate(network, dataset, split)
    if difference := evaluation.compare(loaded.network, dataset, split):
        print("notice:", printable(difference))
    evaluation.print_report(report, network, dataset, split, Console())


def evaluate_published(option: str, name: str, arguments: list[str]) -> None:
    """Evaluate one published network (``--pretrained NAME``) or several (``--all PATTERN``)."""
    from rich.console import Console

    from cnnjax.config import Data

    def options(
        *,
        data: Data = Data(),  # noqa: B008, it is immutable
        ground_truth: Path | None = None,
        out: Path = Path("evaluation.csv"),
        views: Literal[1, 2, 6] = 1,
        platform: cli.Platform = "auto",
        debug: bool = False,
    ) -> tuple[Data, Path | None, Path, Literal[1, 2, 6], cli.Platform]:
        """Evaluate published networks on labeled images.

        Args:
            data: The data to evaluate on; the test images if there are any, otherwise all images of the folder.
            ground_truth: Text file with a line FILE CLASS for each photo of a flat folder.
            out: The CSV file that --all writes.
            views: Views of each image whose mean logits classify it; 2 and 6 as for a run.
            platform: Device to compute on; auto picks an accelerator if there is one.
            debug: Show the traceback of an error.
        """
        return data, ground_truth, out, views, platform

    if not any(argument.startswith("--data.source") for argument in arguments) and "--help" not in arguments:
        raise UserError(f"{option} {name} is given without data; add --data.source, such as image_folder:DIR")
    config, ground_truth, out, views, platform = cli.parse(options, arguments, f"scripts/evaluate.py {option} {name}")
    cli.start_jax(platform)

    from cnnjax.hub import evaluation
    from cnnjax.hub.loading import load_pretrained
    from cnnjax.pretrained import registry

    if option == "--pretrained":
        evaluation.require_images(config, ground_truth)
        network = dataclasses.replace(load_pretrained(name, prepare=cli.use_precision), views=views)
        evaluated = evaluation.evaluate(network, config, ground_truth)
        evaluation.print_evaluation(name, evaluated, registry().get(name), Console(), views)
    elif failures := evaluation.evaluate_all(name, config, ground_truth, out, Console(), views):
        raise PartlyDone(f"{counted(failures, 'network')} could not be evaluated; {out} says why")
    else:
        print(out)


if __name__ == "__main__":
    cli.main(evaluate)
