"""Which of a file's tensors are the network's: wrappers, averaged copies, and prefixes of names.

Training recipes save a state dict along with other data, often twice: the parameters and their moving average. timm's
loader takes the average, and so does this one. Nothing is chosen silently: every choice is reported in a notice.
"""

from collections.abc import Mapping
from typing import Any

from cnnjax.convert.tensors import GET_AGAIN, Tensors
from cnnjax.convert.torch_pickle import Tensor
from cnnjax.errors import UserError, counted, listed, printable

AVERAGED = ("state_dict_ema", "model_ema_state_dict", "ema_state_dict", "model_ema", "ema")
"""Keys of a moving average of the parameters, in the order of preference."""
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Keys of the parameters themselves."""
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "net.", "network.", "encoder.")
"""Prefixes that wrappers add to every name: DataParallel, torch.compile, Lightning and common training recipes."""
COUNTERS = ("n_averaged", "module.n_averaged")
"""The number of updates of torch's AveragedModel, saved with its tensors."""


def select(content: Any, key: str | None) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return the state dict in what torch saved, and notices about the choice.

    Args:
        content: the object in the file.
        key: entry that holds the state dict; None: the usual ones.

    Raises:
        UserError: there is no state dict, or no usual key leads to it.
    """
    if not isinstance(content, dict):
        raise UserError(f"it contains a {type(content).__name__.lower()}; it must be a state dict: tensors by name")
    sets = {name: value for name, value in content.items() if isinstance(name, str) and _is_state_dict(value)}
    found = listed([printable(name) for name in sets], 5)
    if key is not None:
        if key not in sets:
            raise UserError(f"--key {key}: no state dict has this key; there are: {found or 'none'}")
        return sets[key], ()
    known = [name for name in (*AVERAGED, *WRAPPERS) if name in sets]
    if not known:
        if sets and not any(isinstance(value, Tensor) for value in content.values()):
            raise UserError(f"its tensors are under unusual keys: {found}; choose one with --key")
        return _plain(content), ()
    if len(known) == 1:
        return sets[known[0]], ()
    others = listed(known[1:], 5)
    what = "the moving average" if known[0] in AVERAGED else "the parameters"
    return sets[known[0]], (f"{what} under {known[0]!r} is read; --key chooses another: {others}",)


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


def _plain(content: dict[Any, Any]) -> Mapping[str, Tensor]:
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            entry = printable(str(name)[:80])
            raise UserError(f"it is not a state dict: its entry {entry!r} is not a plain tensor; {GET_AGAIN}")
    return content


def without_prefix(tensors: Tensors, prefix: str | None) -> Tensors:
    """Return the tensors with shorter names.

    Args:
        tensors: those of a file.
        prefix: keep only names with this prefix and remove it; a notice counts the others. None: remove common
            prefixes that every name has.
    """
    names = {name: name for name in tensors.shapes}  # new name -> name in the file
    notices = list(tensors.notices)
    if counters := [name for name in names if name in COUNTERS]:
        names = {name: name for name in names if name not in COUNTERS}
        notices.append(f"{listed(counters)} counts the updates of the average and is left out")
    if prefix is None:
        while usual := next((p for p in PREFIXES if names and all(name.startswith(p) for name in names)), None):
            names = {new.removeprefix(usual): old for new, old in names.items()}
    else:
        others = [name for name in names if not name.startswith(prefix)]
        names = {new.removeprefix(prefix): old for new, old in names.items() if new.startswith(prefix)}
        if not names:
            raise UserError(f"--prefix {prefix}: no tensor has this prefix; there are: {listed(others, 3)}")
        if others:
            notices.append(f"{counted(len(others), 'tensor')} without the prefix left out: {listed(others, 3)}")
    if wide := [new for new, old in names.items() if tensors.shapes[old].dtype == "float64"]:
        notices.append(f"{counted(len(wide), 'tensor')} in float64 narrowed to the network's precision")
    return tensors._replace(
        shapes={new: tensors.shapes[old] for new, old in names.items()}, read=lambda name: tensors.read(names[name]),
        notices=tuple(notices),
    )  # fmt: skip
