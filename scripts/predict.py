"""Name what photos show: each image's likeliest classes, by a trained network.

usage: python scripts/predict.py RUN IMAGE... [--top 3]

RUN is a run's folder, such as runs/lenet_mini; it knows its classes and how images are prepared for it.
"""

from pathlib import Path
from typing import Annotated

import tyro

from cnnjax import cli
from cnnjax.errors import UserError, printable, require


def options(
    run: tyro.conf.Positional[Path],
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")],
    top: int = 3,
    platform: cli.Platform = "auto",
    code: Path | None = None,
    trust_code: bool = False,
    debug: bool = False,
) -> tuple[Path, tuple[str, ...], int, cli.Platform, Path | None, bool]:
    """Name what photos show: each image's likeliest classes, by a trained network.

    Args:
        run: The run's folder, such as runs/lenet_mini.
        images: Image files of any common format and size.
        top: How many classes to name, 1 or more.
        platform: What to compute on; auto takes an accelerator where there is one.
        code: The experiment file that defines the run's network. It is run.
        trust_code: Run the copy of that file that lies in the run's folder; for folders that you trust.
        debug: Show the traceback of an error.
    """
    require(top >= 1, "--top", top, "1 or more")
    if not images:
        raise UserError("no IMAGE is given; give one or more image files after the run's folder")
    return run, images, top, platform, code, trust_code


def predict(arguments: list[str]) -> None:
    """Read the command line, predict, print."""
    run, images, top, platform, code, trust_code = cli.parse(
        options, arguments or ["--help"], "scripts/predict.py"
    )  # fmt: skip
    cli.start_jax(platform)

    import cnnjax

    answers = cnnjax.load(run, code=code, trust_code=trust_code, prepare=cli.use_precision).predict(images, top)
    for path, classes in zip(images, answers, strict=True):
        listed = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in classes)
        print(f"{path}: {printable(listed)}")


if __name__ == "__main__":
    cli.main(predict)
