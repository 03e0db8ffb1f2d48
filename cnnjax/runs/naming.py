"""Run names, and the options in which two experiments differ."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax.config import Experiment, flatten
from cnnjax.errors import listed, quoted

LONGEST_NAME = 150
LOCATIONS = ("data.dir",)
"""Options that name a location; they are not part of a run's name or identity."""


def differences(old: Experiment, new: Experiment) -> dict[str, tuple[Any, Any]]:
    """Return the options in which two experiments differ, with both values; locations are left out."""
    a, b = flatten(old.to_dict()), flatten(new.to_dict())
    names = [name for name in {**a, **b} if name not in LOCATIONS]
    pairs = {name: (a.get(name, "not set"), b.get(name, "not set")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def described(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the first options of ``differences`` with both values, and how many more there are."""
    changes = (f"{option} was {quoted(old)} and is now {quoted(new)}" for option, (old, new) in changed.items())
    return listed(changes, separator="; ")


CONTINUED_WITH = ("model", "data", "optimizer.name", "train.batch_size", "train.freeze", "init", "phases",
    "early_stopping.metric")  # fmt: skip
"""Sections and options that a continued run shares with the run whose state it starts from."""
FREE = ("model.dropout", "model.head_dropout", "model.stochastic_depth", "data.stream")
"""Options in these sections that may change, because no state depends on them."""


def not_continuable(old: Experiment, new: Experiment) -> dict[str, tuple[Any, Any]]:
    """Return the options, with both values, that keep ``new`` from continuing from the last state of ``old``."""
    return {
        name: (a, b)
        for name, (a, b) in differences(old, new).items()
        if name not in FREE
        and (
            any(f"{name}.".startswith(f"{fixed}.") for fixed in CONTINUED_WITH)
            or (name == "train.ema_decay" and (a is None) != (b is None))
        )
    }


def run_name(name: str, base: Experiment, experiment: Experiment) -> str:
    """Return the run's name: the experiment's name and the overridden values."""
    options = flatten(experiment.to_dict())
    changed = {option: options[option] for option in differences(base, experiment) if option in options}
    first, *earlier = name.split(",")
    named = {**dict(part.partition("=")[::2] for part in earlier), **{k: _short(v) for k, v in changed.items()}}
    full = ",".join([first, *(f"{option}={value}" for option, value in sorted(named.items()))]).replace("/", "_")
    if len(full) <= LONGEST_NAME:
        return full
    return f"{full[: LONGEST_NAME - 9]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def short_origin(text: str) -> str:
    """Return where parameters come from without its folder, for the name of a run."""
    kind, colon, place = text.rpartition(":")
    return f"{kind}{colon}{Path(place).name}"


def _short(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
