"""The checks of `test_devices`, in one process with 8 virtual CPU devices. It prints what each one finds as JSON.

usage: python tests/devices/on_devices.py FOLDER [CHECK...]
"""

import dataclasses
import json
import logging
import os
import shutil
import sys
import traceback
from pathlib import Path
from unittest import mock

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["CNNJAX_CACHE"] = "0"
os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # a script would restart the process to set it

import jax
import numpy as np
from collectives import collectives
from training_cases import CASES, case, distance, trained

from cnnjax.config import Augmentation
from cnnjax.data import loader
from cnnjax.data.shares import StreamedShares
from cnnjax.functional import init
from cnnjax.models import create
from cnnjax.parallel import current_placement, use_devices
from cnnjax.training.evaluation import predict_logits
from cnnjax.training.initial import initial_variables
from cnnjax.training.loop import dispatch_of_training, plan
from cnnjax.training.stacked import StackMember, fit_stacked
from cnnjax.training.state import init_state, step_key
from cnnjax.transfer.embeddings import Embedder
from tests.faults.harness import write_digits
from tests.script import run_script

DEVICES = 8


def on_both(run):
    """Return the results of ``run()`` on one device and on all."""
    results = []
    for devices in (1, DEVICES):
        use_devices(devices)
        results.append(run())
    use_devices(None)
    return results


def figures(outcome) -> dict:
    return {name: value for name, value in outcome.rows[-1].items() if "second" not in name}


def wide(name: str, train: dict | None = None, **options) -> dict:
    """Compare the whole train state after 20 steps in float64 with that of one device."""
    jax.config.update("jax_enable_x64", True)
    experiment, dataset = case(name, "float64")
    experiment = experiment.replace(**options, train=experiment.train.replace(**train or {}))
    one, many = (trained(experiment, dataset, devices) for devices in (1, DEVICES))
    first, second = one.snapshot.state, many.snapshot.state
    return {
        "devices": len(jax.tree.leaves(second.params)[0].sharding.device_set),
        "state": distance(first._replace(metrics=None)._asdict(), second._replace(metrics=None)._asdict()),
        "rows": [figures(one), figures(many)],
    }  # fmt: skip


def gradient(name: str) -> dict:
    """Compare the first gradient in float32, which is momentum's trace after one step, by its norm."""
    experiment, dataset = case(name)
    batch = np.arange(experiment.train.batch_size)
    experiment = experiment.replace(train=experiment.train.replace(ema_decay=None))
    dataset = dataclasses.replace(dataset, train=dataset.train.take(batch))
    traces = [trained(experiment, dataset, devices).snapshot.state.opt_state for devices in (1, DEVICES)]
    one, many = (np.concatenate([np.ravel(leaf).astype(float) for leaf in jax.tree.leaves(trace)]) for trace in traces)
    return {"relative": float(np.linalg.norm(one - many) / np.linalg.norm(one)), "values": len(one)}


def reduced(name: str) -> dict:
    """Read the collectives of a compiled step, for resident and for streamed images."""
    experiment, dataset = case(name)
    steps_per_epoch, values = plan(experiment, dataset)
    placement = current_placement()
    state = placement.spread(init_state(experiment, values))
    dispatch = dispatch_of_training(experiment, dataset, steps_per_epoch)
    order = np.arange(len(dataset.train.labels), dtype=np.int32)
    result = {
        "params": [list(leaf.shape) for leaf in jax.tree.leaves(state.params)],
        "statistics": [list(leaf.shape) for leaf in jax.tree.leaves(state.batch_stats)],
    }
    for load in (loader.Resident, StreamedShares):
        arguments = (1, placement) if load is loader.Resident else (experiment.train.batch_size, 1, placement)
        chunk = next(iter(load(dataset.train, *arguments).epoch(order, 0, 1)))
        with placement.active():
            lowered = dispatch.lower(
                state, chunk.data, chunk.order, step_key(0), placement.put(values), steps=1, start=chunk.start
            )
        result[load.__name__] = [[c.kind, c.arrays] for c in collectives(lowered.compile().as_text())]
    return result


def streamed() -> dict:
    """Compare a training on streamed images, in chunks of three steps, with one on resident images."""
    jax.config.update("jax_enable_x64", True)
    experiment, dataset = case("lenet", "float64")
    resident = trained(experiment, dataset)
    with mock.patch.object(loader, "loading_plan", return_value=loader.LoadingPlan(False, 3)):
        outcome = trained(experiment, dataset)
    return {
        "state": distance(resident.snapshot.state.params, outcome.snapshot.state.params),
        "rows": [figures(resident), figures(outcome)],
    }


def stacked() -> dict:
    """Compare two members that train side by side on all devices with the same on one device."""
    jax.config.update("jax_enable_x64", True)
    experiment, dataset = case("lenet", "float64")
    members = [(seed, StackMember(experiment.replace(seed=seed), None, ())) for seed in (0, 1)]
    one, many = on_both(lambda: dict(fit_stacked(members, dataset)))
    pairs = [(one[seed].snapshot.state.params, many[seed].snapshot.state.params) for seed in (0, 1)]
    return {"state": max(distance(*pair) for pair in pairs), "devices": DEVICES}


def inference() -> dict:
    """Compare logits, logits over views and embeddings of 19 images."""
    experiment, dataset = case("lenet")
    variables = initial_variables(experiment, dataset)
    arguments = experiment.model, dataset.preprocessing, variables, dataset.test, 10
    logits, views = on_both(lambda: predict_logits(*arguments)), on_both(lambda: predict_logits(*arguments, 2))
    backbone = create("mlp", input_size=28, num_classes=0)
    weights = init(backbone, jax.random.key(0))
    embeddings = on_both(lambda: Embedder(backbone, weights, dataset.preprocessing)(dataset.test))
    return {
        "shapes": [list(array.shape) for array in (*logits, *views, *embeddings)],
        "distance": max(float(np.abs(one - many).max()) for one, many in (logits, views, embeddings)),
    }


def compilations() -> dict:
    """Count the compilations of the train step in three epochs."""
    experiment, dataset = case("lenet", epochs=3)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    jax.clear_caches()
    jax.config.update("jax_log_compiles", True)
    try:
        trained(experiment, dataset)
    finally:
        jax.config.update("jax_log_compiles", False)
        logger.removeHandler(handler)
    return {
        name: sum(message.startswith(f"Finished XLA compilation of jit({name})") for message in messages)
        for name in ("dispatch", "eval_step")
    }


def scripts(folder: Path) -> dict:
    """Train with scripts/train.py on 8 devices, continue after the first epoch on 4 and on 1, and evaluate."""
    write_digits(folder / "digits")
    options = [
        "lenet_mini", "--data.source", "mnist", "--data.dir", folder / "digits", "--data.validation", "0.2",
        "--train.epochs", "2", "--train.batch-size", "30", "--model.input-size", "12", "--model.dtype", "float64",
        "--platform", "cpu",
    ]  # fmt: skip
    outputs = {"eight": run_script("train.py", *options, "--out", folder / "eight")}
    one = run_script("train.py", *options, "--out", folder / "one", "--devices", "1")
    (last,) = (path for path in (folder / "eight/checkpoints").iterdir() if path.name.endswith("20"))
    for devices in (4, 1):
        run = folder / f"continued{devices}"
        shutil.copytree(folder / "eight", run)
        (run / "results.json").unlink()
        shutil.rmtree(run / "checkpoints" / last.name)
        outputs[f"continued{devices}"] = run_script("train.py", *options, "--out", run, "--devices", str(devices))
    outputs["one"] = one
    run = folder / "wide"
    shutil.copytree(folder / "one", run)
    (run / "results.json").unlink()
    shutil.rmtree(run / "checkpoints" / last.name)
    outputs["wide"] = run_script("train.py", *options, "--out", run)
    outputs["refused"] = run_script("train.py", *options, "--out", folder / "refused", "--devices", "9")
    outputs["evaluated"] = run_script("evaluate.py", folder / "eight", "--platform", "cpu")
    return {
        "outputs": {name: list(ended)[:3] for name, ended in outputs.items()},
        "results": {
            name: json.loads((folder / name / "results.json").read_text())
            for name in ("eight", "one", "continued4", "continued1", "wide")
        },
        "devices": [entry["devices"] for entry in json.loads((folder / "continued4" / "environment.json").read_text())],
    }


MIXED = Augmentation(pad_crop=2, flip=True, mixup=0.2, cutmix=1.0)
CHECKS = {
    **{f"wide-{name}": lambda _, name=name: wide(name) for name in CASES},
    "wide-mixed": lambda _: wide("lenet", augmentation=MIXED),
    "wide-accumulated": lambda _: wide("lenet", train={"accumulate": 2}),
    **{f"gradient-{name}": lambda _, name=name: gradient(name) for name in CASES},
    **{f"reduced-{name}": lambda _, name=name: reduced(name) for name in ("lenet", "resnet20")},
    "streamed": lambda _: streamed(),
    "stacked": lambda _: stacked(),
    "inference": lambda _: inference(),
    "compilations": lambda _: compilations(),
    "scripts": scripts,
}


def main(folder: Path, names: list[str]) -> None:
    found = {}
    for name in names or CHECKS:
        try:
            found[name] = CHECKS[name](folder)
        except Exception:
            found[name] = {"error": traceback.format_exc()}
        jax.config.update("jax_enable_x64", False)
        use_devices(None)
        print(name, file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
