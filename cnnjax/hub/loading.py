"""Load a published network by name: ``load_pretrained``."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax

from cnnjax.convert import load_weights
from cnnjax.errors import UserError, listed
from cnnjax.functional import Variables, abstract_variables, init, leaves_by_path
from cnnjax.hub import cache, huggingface, model_folder, timm_folder
from cnnjax.hub.descriptions import arch_of, classes_of, preprocessing_of
from cnnjax.hub.progress import notice
from cnnjax.hub.verification import digests
from cnnjax.models.layers import Arch
from cnnjax.pretrained import OWN, Published, find, registry
from cnnjax.runs.predictor import Predictor
from cnnjax.system.files import read_json

KINDS = ("file", "folder", "hf")
"""What a name may start with, before a colon, if it is not in the registry."""
INCLUDED = Path(__file__).parent / "included"
"""The networks in the package, one folder each."""


def load_pretrained(
    name: str, num_classes: int | None = None, *, prepare: Callable[[Arch], None] = lambda arch: None
) -> Predictor:  # fmt: skip
    """Return a published network, ready to predict.

    Args:
        name: a name of ``cnnjax.list_models(pretrained=True)``, such as ``"resnet50_v1.keras_in1k"``: downloaded and
            converted at the first use; or

            - ``"file:PATH"``: a weight file that the registry knows by its hash;
            - ``"folder:DIR"``: a folder written by `cnnjax.hub.model_folder`, or a copy of one of timm's repositories;
            - ``"hf:OWNER/NAME"``: the same on the Hugging Face hub (``pip install cnnjax[hub]``).
        num_classes: replace the head by a new one with random parameters for this number of classes; a notice says so.
        prepare: called with the network's definition before any array is read.

    Raises:
        UserError: the name is unknown, the file cannot be downloaded, is damaged, or does not fit the network.

    Example:
        >>> import cnnjax
        >>> network = cnnjax.load_pretrained("lenet.fashion_mnist")  # part of the package
        >>> network.arch.num_classes, network.classes[:2]
        (10, ('T-shirt/top', 'Trouser'))
        >>> network.predict("shoe.png", top=1)  # doctest: +SKIP
        [[('Sneaker', 0.99)]]
    """
    network = _load(name, prepare)
    return network if num_classes is None else replace_head(network, num_classes, name)


def require_name(name: str) -> None:
    """Raise UserError if no network has this name, which `load_pretrained` takes; nothing is downloaded."""
    kind, _, place = name.partition(":")
    if not (kind in KINDS and place):
        find(name)


def _load(name: str, prepare: Callable[[Arch], None]) -> Predictor:
    kind, _, place = name.partition(":")
    if kind == "file" and place:
        return _from_file(Path(place))
    if kind == "folder" and place:
        return read_folder(Path(place), prepare)
    if kind == "hf" and place:
        return read_folder(huggingface.snapshot(place), prepare)
    entry = find(name)
    return model_folder.read(INCLUDED / name, prepare) if entry.source == OWN else cache.load(entry)


def is_available(entry: Published) -> bool:
    """Return whether a network can be loaded without a download."""
    return entry.source == OWN or cache.is_cached(entry)


def read_folder(folder: Path, prepare: Callable[[Arch], None] = lambda arch: None) -> Predictor:
    """Read a folder in cnnjax's layout or in that of timm's repositories."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give one with {model_folder.CONFIG} and {model_folder.WEIGHTS}")
    config = read_json(folder / model_folder.CONFIG)
    if isinstance(config, dict) and "architecture" in config and "model" not in config:
        return timm_folder.read(folder, config, prepare)
    return model_folder.read(folder, prepare)


def _from_file(path: Path) -> Predictor:
    """Return the network whose published file this is. Nothing is cached."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; check the path")
    found = digests(path)
    matching = [entry for entry in registry().values() if _is_file_of(entry, found.sha256, found.md5)]
    if not matching:
        raise UserError(
            f"{path} is not a published file that the registry knows (sha256 {found.sha256[:12]}...); convert it with "
            "python scripts/convert.py MODEL --from SOURCE FILE RUN"
        )
    entry = next((entry for entry in matching if entry.source != "timm"), matching[0])
    arch = arch_of(entry)
    variables = load_weights(arch, entry.source, path)
    return Predictor(arch, variables, classes_of(entry), preprocessing_of(entry), path, {})


def _is_file_of(entry: Published, sha256: str, md5: str) -> bool:
    kind, _, digest = entry.hash.partition(":")
    return bool(digest) and {"sha256": sha256, "md5": md5}[kind].startswith(digest)


def replace_head(network: Predictor, num_classes: int, name: str) -> Predictor:
    """Return the network with a new, randomly initialized head for ``num_classes`` numbered classes.

    The new parameters are those that depend on the number of classes, also in auxiliary heads. If the number is the
    network's own, the head is kept.
    """
    before = network.arch.num_classes
    if num_classes == before:
        notice(f"{name} has {num_classes} classes already; its head is kept")
        return network
    arch = network.arch.replace(num_classes=num_classes)
    expected, old = abstract_variables(arch)._asdict(), leaves_by_path(network.variables._asdict())
    shapes = leaves_by_path(expected)
    new = [path for path, leaf in shapes.items() if path not in old or old[path].shape != leaf.shape]
    leaves = {**old, **_initial(arch, tuple(new))}
    variables = Variables(**jax.tree.unflatten(jax.tree.structure(expected), [leaves[path] for path in shapes]))
    if num_classes:
        names = listed(new, 4)
        notice(f"the head of {name} for {before} classes is replaced by a new one for {num_classes}: {names}")
    else:
        notice(f"the head of {name} for {before} classes is removed")
    classes = tuple(map(str, range(num_classes)))
    return Predictor(arch, variables, classes, network.preprocessing, network.checkpoint, network.data)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _initial(arch: Arch, paths: tuple[str, ...]) -> dict[str, jax.Array]:
    """Return the initial values of some variables; the program computes no others."""
    leaves = leaves_by_path(init(arch, jax.random.key(0))._asdict())
    return {path: leaves[path] for path in paths}
