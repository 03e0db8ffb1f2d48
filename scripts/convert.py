"""Convert published weights to a run that evaluate and predict accept, or a run's parameters to a state dict.

usage: python scripts/convert.py MODEL --from SOURCE FILE OUT [--classes NAME...] [--mean R G B] [--std R G B]
       python scripts/convert.py RUN --to SOURCE FILE.safetensors

SOURCE is the library whose tensor names the file uses: torchvision, timm, keras, or cifar (the published networks of
section 4.2 of the ResNet paper).
FILE is a .pth file of torch, a .safetensors file, or a .h5, .weights.h5 or .keras file of Keras; it is read as data.
`python scripts/convert.py MODEL --from SOURCE --help` shows every option.
"""

from pathlib import Path
from typing import Annotated, Any

import tyro

from cnnjax import cli
from cnnjax.errors import UserError


def run(arguments: list[str]) -> None:
    """Parse the command line and convert."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    name = cli.first(arguments, "model or the run")
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
    from cnnjax.convert import Choice, source_of
    from cnnjax.convert.folder import convert_to_run
    from cnnjax.convert.sources import ChannelOrder, Interpolation
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
        channel_order: ChannelOrder | None = None,
        interpolation: Interpolation | None = None,
        key: str | None = None,
        prefix: str | None = None,
        model: type(variant) = variant,  # type: ignore[valid-type]
        debug: bool = False,
    ) -> Any:
        """Convert published weights to a run folder.

        Args:
            file: The file of published weights.
            out: The run folder to create; it must not exist or must be empty.
            classes: Class names in the order of the outputs, one .txt file with a name per line, one .json file, or
                imagenet; by default the classes are numbered.
            mean: Mean per channel, of values in [0, 1]; by default the publisher's.
            std: Standard deviation per channel; by default the publisher's.
            channel_order: Order of the channels that the network takes; by default the publisher's.
            interpolation: Resampling filter for images of other sizes; by default the publisher's.
            key: Entry of a torch file that holds the state dict; by default the usual ones, a moving average first.
            prefix: Prefix of the tensors to read, which is removed; by default a common prefix, if all names have it.
            model: The network as published; --classes sets its number of classes.
            debug: Show the traceback of an error.
        """
        return file, out, classes, mean, std, channel_order, interpolation, Choice(key, prefix), model

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
