"""Measure how fast networks train and answer, here and in PyTorch and Keras; or what a training step takes in memory.

usage: python scripts/benchmark.py train --models NAME ... [OPTIONS]     a training step
       python scripts/benchmark.py infer --models NAME ... [OPTIONS]     from images to logits
       python scripts/benchmark.py memory MODEL [OPTIONS]                peak memory, and the largest batch that fits

`python scripts/benchmark.py train --help` shows the options, so do the others; --write puts the table into
docs/benchmarks.md. `python scripts/summary.py` lists the networks. The peers come
with `pip install -e .[bench]`; the table says which are not installed.
Exit codes: 0 done, 1 a peer failed or --write wrote nothing, 2 bad input.
"""

import sys

from cnnjax import cli
from cnnjax.errors import choose


def benchmark(arguments: list[str]) -> None:
    """Hand the command line to the command that it names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    command = choose("command", cli.first(arguments, "command"), ("train", "infer", "memory"))
    if command == "memory":
        from cnnjax.benchmark import memory

        memory.run(arguments[1:])
        return
    from cnnjax.benchmark.command import run

    sys.exit(run("train" if command == "train" else "infer", arguments[1:]))


if __name__ == "__main__":
    cli.main(benchmark)
