"""Turn published weights into a run that evaluate and predict accept, or a run's parameters into a state dict.

usage: python scripts/convert.py MODEL --from SOURCE FILE OUT [--classes NAME...] [--mean R G B] [--std R G B]
       python scripts/convert.py RUN --to SOURCE FILE.safetensors

SOURCE is whose names the file uses: torchvision, timm, keras, or cifar (published networks of ResNet's section 4.2).
FILE is torch's .pth, a .safetensors file, or Keras's .h5, .weights.h5 or .keras; it is read as data.
`python scripts/convert.py MODEL --from SOURCE --help` shows every option.
"""

from pathlib import Path
from typing import Annotated, Any

import tyro

from cnnjax import cli
from cnnjax.errors import UserError


def run(arguments: list[str]) -> None:
    """Read the command line, convert, say what was written."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    name = cli.first(arguments, "model, or the run")
    rest, target = cli.take_option(arguments[1:], "--to")
    if target is not None:
        export(name, target, rest)
        return
    rest, source = cli.take_option(rest, "--from")
    if source is None:
        raise UserError("neither --from nor --to is given; give --from SOURCE FILE OUT, or RUN --to SOURCE FILE")
    convert(name, source, rest)


def convert(name: str, source: str, arguments: list[str]) -> None:
    """Convert a file of published weights."""
    from cnnjax.convert import source_of
    from cnnjax.convert.folder import convert_to_run
    from cnnjax.models import create

    variant = create(name)
    source_of(variant, source)

    def options(
        file: tyro.conf.Positional[Path],
        out: tyro.conf.Positional[Path],
        *,
        classes: tuple[str, ...] = (),
        mean: tuple[float, ...] = (),
        std: tuple[float, ...] = (),
        model: type(variant) = variant,  # type: ignore[valid-type]
        debug: bool = False,
    ) -> Any:
        """Turn published weights into a run's folder.

        Args:
            file: The file of published weights.
            out: The folder to make; it must not be there, or be empty.
            classes: The classes' names in the order of the outputs, or one .txt file with a name in each line; without
                them they are called by their numbers.
            mean: By channel, of values in [0, 1]; without it the publisher's.
            std: By channel; without it the publisher's.
            model: The network as it was published; --classes set its number of classes.
            debug: Show the traceback of an error.
        """
        return file, out, classes, mean, std, model

    file, out, *given, model = cli.parse(options, arguments, f"scripts/convert.py {name} --from {source}")
    cli.use_precision(model)
    print(convert_to_run(name, model, source, file, out, *given))


def export(run: str, target: str, arguments: list[str]) -> None:
    """Write a run's parameters for another library."""

    def options(
        file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.safetensors")], debug: bool = False
    ) -> Path:
        """Write the best parameters of a run as a state dict.

        Args:
            file: The file to write.
            debug: Show the traceback of an error.
        """
        return file

    file = cli.parse(options, arguments, f"scripts/convert.py {run} --to {target}")

    from cnnjax.convert import save_weights
    from cnnjax.runs import predictor

    network = predictor.load(Path(run), prepare=cli.use_precision)
    save_weights(network.arch, network.variables, target, file)
    print(f"{file}: {network.arch.family}, parameters of {network.checkpoint}, for {target}")


if __name__ == "__main__":
    cli.main(run)
