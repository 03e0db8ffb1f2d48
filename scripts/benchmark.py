"""Measure the speed of training, inference and sweeps against PyTorch and Keras, or the memory of a training step.

usage: python scripts/benchmark.py train --models NAME ... [OPTIONS]     a training step
       python scripts/benchmark.py infer --models NAME ... [OPTIONS]     from images to logits
       python scripts/benchmark.py stream FOLDER [OPTIONS]              photos decoded and cropped for training
       python scripts/benchmark.py transfer FOLDER --init WEIGHTS       from photos to a trained head for Xception
       python scripts/benchmark.py sweep [OPTIONS]                      members of a sweep, together and separately
       python scripts/benchmark.py members [OPTIONS]                    members side by side on one accelerator
       python scripts/benchmark.py memory MODEL [OPTIONS]                peak memory, and the largest batch that fits
       python scripts/benchmark.py gpu [--minutes 12]                    the open questions on a GPU

`python scripts/benchmark.py train --help` shows the options of a command; --write writes the table to
docs/benchmarks.md. `python scripts/summary.py` lists the networks. Install PyTorch and Keras with
`pip install -e .[bench]`; the table names the libraries that are not installed.
Exit codes: 0 done, 1 a peer failed or --write wrote nothing, 2 bad input.
"""

import importlib
import sys

from cnnjax import cli
from cnnjax.errors import choose

MODULES = {
    "stream": "streaming", "sweep": "sweeping", "members": "members", "transfer": "transfer", "memory": "memory",
    "gpu": "gpu",
}  # fmt: skip
"""Modules of the commands that measure something other than single networks."""


def benchmark(arguments: list[str]) -> None:
    """Dispatch to the command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    command = choose("command", cli.first(arguments, "command"), ("train", "infer", *MODULES))
    if command not in ("train", "infer"):
        importlib.import_module(f"cnnjax.benchmark.{MODULES[command]}").run(arguments[1:])
        return
    from cnnjax.benchmark.command import run

    sys.exit(run("train" if command == "train" else "infer", arguments[1:]))


if __name__ == "__main__":
    cli.main(benchmark)
