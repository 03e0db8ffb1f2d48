"""A store with made-up results, for tests of what is computed and drawn from them."""

import json

from cnnjax import create
from cnnjax.config import Experiment
from cnnjax.runs.definitions import BUILT_IN
from cnnjax.sweep import store
from cnnjax.sweep.members import expand

BASE = Experiment(model=create("lenet"))
EPOCHS = 4
ENVIRONMENT = {
    "python": "3.11", "packages": {"cnnjax": "0", "jax": "0"}, "device": "made-up device", "backend": "cpu", "cpus": 2,
    "lowering": {"convolution": "made up"},
}  # fmt: skip


def make_store(root, name, sweep, top1_of, base=BASE):
    """Write a sweep and its members; return its folder.

    ``top1_of`` gives the test top-1 of a member's values, or None for a member that diverged.
    """
    members = expand(base, sweep)
    description = store.write_description(root / name, name, "A made-up sweep.", sweep, members, BUILT_IN)
    for entry, member in zip(description.entries, members, strict=True):
        folder = store.member_folder(root, entry.id)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "environment.json").write_text(json.dumps([ENVIRONMENT]))
        top1 = top1_of(member.values)
        if top1 is None:
            (folder / "problem.json").write_text(json.dumps({"status": "diverged", "message": "made up"}))
            continue
        write_results(folder, top1)
    return root / name


def write_results(folder, top1):
    rows = [
        {"epoch": n, "step": 10 * n, "lr": 0.1, "train_loss": 2 - top1 * n / EPOCHS, "train_top1": top1,
         "validation_loss": 1.0, "validation_top1": top1 * n / EPOCHS, "seconds": 1.0, "images_per_second": 100.0}
        for n in range(1, EPOCHS + 1)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    part = {"loss": 1 - top1, "top1": top1, "images": 100}
    results = {"epochs": EPOCHS, "best_epoch": EPOCHS, "stopped_early": False, "seconds": 5.0,
               "images_per_second": 100.0, "train": part, "validation": part, "test": part}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "report.html").write_text("")
