"""Export a trained network to a file that needs no cnnjax.

usage: python scripts/export.py SOURCE --to stablehlo|onnx|safetensors|folder OUT

SOURCE is a run folder, a folder written by --to folder, or a published network (python scripts/pretrained.py list).

    stablehlo    one file for CPU, CUDA and TPU, any batch size: images uint8 in, logits, probabilities, class names out
    onnx         the same for onnxruntime; the class names are in its metadata
    safetensors  the variables by their paths
    folder       safetensors, config and model card in the layout of the Hugging Face hub; cnnjax can load it

Every file is read back in another process and compared with the network before it is renamed to OUT.
"""

from pathlib import Path
from typing import Literal

import tyro

from cnnjax import cli


def export(arguments: list[str]) -> None:
    """Parse the command line, export."""

    def options(
        source: tyro.conf.Positional[str],
        out: tyro.conf.Positional[Path],
        *,
        to: Literal["stablehlo", "onnx", "safetensors", "folder"],
        license: str | None = None,
        parameters: Literal["auto", "ema", "raw"] = "auto",
        code: Path | None = None,
        trust_code: bool = False,
        debug: bool = False,
    ) -> tuple[str, Path, str, str | None, Literal["auto", "ema", "raw"], Path | None, bool]:
        """Export a trained network to a file that needs no cnnjax.

        Args:
            source: A run folder, a folder written by --to folder, or the name of a published network.
            out: The file or folder to create.
            to: The format.
            license: License of the weights for the model card, such as mit; by default as known from the source.
            parameters: For a run with moving averages: auto and ema use these, raw the trained parameters.
            code: The experiment file that defines the run's network. It is executed.
            trust_code: Execute the copy of that file in the run folder; only for folders that you trust.
            debug: Show the traceback of an error.
        """
        return source, out, to, license, parameters, code, trust_code

    request = cli.parse(options, arguments or ["--help"], "scripts/export.py")
    name, out, target, license, parameters, code, trust_code = request
    cli.start_jax("cpu")

    from cnnjax.export.model_card import require_license
    from cnnjax.export.source import open_source
    from cnnjax.export.targets import TARGETS

    if license is not None:
        require_license(license)
    source = open_source(name, code, trust_code, cli.use_precision, parameters)
    if source.network.averaged is not None:
        print(f"notice: {source.network.origin} are exported; select others with --parameters")
    if license is not None:
        source.origin["license"] = license
    print(f"{out}: {TARGETS[target](source, out)}")


if __name__ == "__main__":
    cli.main(export)
