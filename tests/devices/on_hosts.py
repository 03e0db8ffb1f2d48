"""Train as one of several processes that hold 8 virtual CPU devices together, and save what this process computes.

usage: python tests/devices/on_hosts.py FOLDER PORT PROCESSES PROCESS
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from unittest import mock

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={8 // int(sys.argv[3])}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["CNNJAX_CACHE"] = "0"

import jax
import numpy as np
from training_cases import case

from cnnjax.data import loader
from cnnjax.parallel import processes
from cnnjax.runs import together
from cnnjax.training.turns import finish

FOLDER, PORT, PROCESSES, PROCESS = Path(sys.argv[1]), *map(int, sys.argv[2:5])


class Counted:
    """A source that records which images are read."""

    def __init__(self, source):
        self.source, self.labels, self.image_shape, self.reads = source, source.labels, source.image_shape, []

    def read(self, indices):
        self.reads.append(len(indices))
        return self.source.read(indices)


def trained(experiment, dataset):
    """Return the outcome of a training, as `cnnjax.runs.together` begins it."""
    start = None
    if not processes.is_leader():
        start = together.announced(processes.exchange(None)[0], experiment, dataset)
    return finish(together.train(experiment, dataset, start, ()))


def main() -> None:
    if PROCESSES > 1:
        processes.join(processes.Coordinator(f"127.0.0.1:{PORT}", PROCESSES, PROCESS, 100))
    jax.config.update("jax_enable_x64", True)
    experiment, dataset = case("lenet", "float64")
    found = {}
    for name, patch in (
        ("resident", mock.patch.object(loader, "RESIDENT_SHARE", 1.0)),
        ("streamed", mock.patch.object(loader, "loading_plan", return_value=loader.LoadingPlan(False, 3))),
    ):
        train, validation = Counted(dataset.train), Counted(dataset.validation)
        counted = dataset if name == "resident" else dataclasses.replace(dataset, train=train, validation=validation)
        with patch:
            outcome = trained(experiment, counted)
        leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(outcome.snapshot.state))
        np.savez(FOLDER / f"{name}-{PROCESSES}-{PROCESS}.npz", **{jax.tree_util.keystr(k): leaf for k, leaf in leaves})
        figures = {key: value for key, value in outcome.rows[-1].items() if key not in together.CLOCK}
        found[name] = {"figures": figures, "reads": [sum(train.reads), sum(validation.reads)]}
    (FOLDER / f"{PROCESSES}-{PROCESS}.json").write_text(json.dumps(found))
    processes.leave()


if __name__ == "__main__":
    main()
