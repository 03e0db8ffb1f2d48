"""Probe the embeddings of a trained network on new classes: linear probe and nearest neighbors, with few images.

usage: python scripts/probe.py NETWORK --data.source SOURCE [--shots 1 5 10 50] [--seeds 5] [--json]

NETWORK is a run folder, run:RUN, or file:WEIGHTS with --model NAME. The images are prepared as the network expects.
The result is the top-1 accuracy on the test images, as mean and standard deviation over the seeds, which draw the
training images.
"""

import json
import sys
from pathlib import Path
from typing import Any, Literal

from cnnjax import cli
from cnnjax.errors import UserError, require


def run(arguments: list[str]) -> None:
    """Parse the command line, embed, fit, print."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    network = cli.first(arguments, "network")

    from cnnjax.config import Data

    def options(
        data: Data = Data(),  # noqa: B008, it is immutable
        *,
        shots: tuple[int, ...] = (1, 5, 10, 50),
        seeds: int = 5,
        neighbors: int = 5,
        model: str | None = None,
        parameters: Literal["auto", "ema", "raw"] = "auto",
        json: bool = False,
        platform: cli.Platform = "auto",
        debug: bool = False,
    ) -> Any:
        """Probe the embeddings of a trained network.

        Args:
            data: The data set.
            shots: Training images of each class, 1 or more; all images are always probed too.
            seeds: Number of draws of the training images, 1 or more.
            neighbors: Neighbors that vote, 1 or more; with fewer images, all of them.
            model: The network of a weight file.
            parameters: For a run with moving averages: auto and ema use these, raw the trained parameters.
            json: Print one JSON object per number of images.
            platform: Device to compute on; auto picks an accelerator if there is one.
            debug: Show the traceback of an error.
        """
        require(seeds >= 1, "--seeds", seeds, "1 or more")
        require(neighbors >= 1, "--neighbors", neighbors, "1 or more")
        return data, shots, seeds, neighbors, model, parameters, json, platform

    data, shots, seeds, neighbors, model, parameters, as_json, platform = cli.parse(
        options, arguments[1:], f"scripts/probe.py {network}"
    )
    text = f"run:{network}" if Path(network).is_dir() else network
    if text.startswith("file:") and model is None:
        raise UserError(f"{network} does not describe its network; give it with --model NAME")
    cli.start_jax(platform)

    from cnnjax.models import create
    from cnnjax.runs import probing

    result = probing.probe_network(
        text, create(model or "lenet"), data, shots=shots, seeds=seeds, neighbors=neighbors,
        notice=lambda notice: print(notice, file=sys.stderr), parameters=parameters,
    )  # fmt: skip
    for line in map(json.dumps, result.records()) if as_json else result.lines():
        print(line)


if __name__ == "__main__":
    cli.main(run)
