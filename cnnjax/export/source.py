"""The network to export, and what is known of its origin: a run folder, a model folder or a published network."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax import checkpoint
from cnnjax.errors import UserError
from cnnjax.hub.loading import INCLUDED, load_pretrained
from cnnjax.hub.model_folder import CONFIG
from cnnjax.models.layers import Arch
from cnnjax.pretrained import OWN, find
from cnnjax.runs import predictor
from cnnjax.runs.definitions import of_run
from cnnjax.runs.folder import RunFolder, read_config
from cnnjax.runs.predictor import Parameters, Predictor
from cnnjax.system.files import read_json

KEPT = ("license", "trained", "published", "converted")
"""Entries of a model folder's config.json that state its origin."""
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,40}")
"""Identifiers of licenses on the Hugging Face hub, such as mit or cc-by-nc-4.0."""


class ExportSource(NamedTuple):
    """A network with a title, and its origin as the entries `KEPT` of config.json."""

    network: Predictor
    title: str
    origin: dict[str, Any]


def open_source(
    name: str, code: Path | None = None, trust_code: bool = False,
    prepare: Callable[[Arch], None] = lambda arch: None, parameters: Parameters = "auto",
) -> ExportSource:  # fmt: skip
    """Load a run folder, a folder written by ``--to folder``, or a published network by its name.

    Raises:
        UserError: it does not exist or is damaged.
    """
    path = Path(name)
    if (path / "checkpoints").is_dir():
        definitions = of_run(path, code, trust_code)
        network = predictor.load(path, definitions, prepare, parameters)
        return ExportSource(network, path.resolve().name, _of_run(path, definitions, raw=network.averaged is False))
    if code is not None or trust_code:
        raise UserError(f"--code and --trust-code apply to run folders, and {name} is not one; leave them out")
    if parameters != "auto":
        raise UserError(f"--parameters applies to run folders, and {name} is not one; leave it out")
    if path.is_dir():
        return ExportSource(load_pretrained(f"folder:{name}", prepare=prepare), path.resolve().name, _of_folder(path))
    if path.parent != Path() and ":" not in name:
        raise UserError(f"there is no folder {name}; give a run, a folder, or a name of scripts/pretrained.py list")
    return ExportSource(load_pretrained(name, prepare=prepare), name, _of_published(name))


def _of_run(path: Path, definitions: Any, *, raw: bool) -> dict[str, Any]:
    """Return the results of a run, or the published file that it was converted from."""
    if not (path / "config.json").is_file():
        converted = checkpoint.best(path / "checkpoints").info.get("converted")
        return {"converted": converted} if isinstance(converted, dict) else {}
    name, experiment = read_config(path / "config.json", definitions)
    trained: dict[str, Any] = {"run": name, "seed": experiment.seed, "data": experiment.data.source}
    results = RunFolder(path, definitions).read_results() if (path / "results.json").is_file() else {}
    if raw:
        results = results.get("raw", {})  # older versions evaluated only the averages
    if results:
        parts = {part: results[part] for part in ("train", "validation", "test")}
        trained |= {"best_epoch": results["best_epoch"], "results": parts}
    return {"trained": trained}


def _of_folder(path: Path) -> dict[str, Any]:
    config = read_json(path / CONFIG)
    return {key: config[key] for key in KEPT if key in config}


def _of_published(name: str) -> dict[str, Any]:
    if ":" in name:
        return {}
    entry = find(name)
    if entry.source == OWN:
        return _of_folder(INCLUDED / name)
    stated = {"name": name, "source": entry.source, "address": entry.address, "data": entry.data}
    return {"license": entry.license, "published": {**stated, "top1": entry.top1, "top5": entry.top5}}
