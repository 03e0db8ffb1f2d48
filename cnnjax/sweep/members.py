"""The members of a sweep: one experiment for each combination of values, and the groups that share a program."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cnnjax.config import Experiment, flatten
from cnnjax.errors import UserError, choose, quoted
from cnnjax.models import variant_like
from cnnjax.schema import Schema
from cnnjax.sweep.axes import DESIGN_SPACE, Sweep, label
from cnnjax.training.program import program_of


class Member(NamedTuple):
    """One training of a sweep: the values of its axes by option, and the experiment that they give."""

    values: dict[str, Any]
    experiment: Experiment

    @property
    def title(self) -> str:
        """The values as text, such as ``optimizer.lr=0.1, seed=2``."""
        return ", ".join(f"{option}={label(value)}" for option, value in self.values.items())


def expand(base: Experiment, sweep: Sweep) -> tuple[Member, ...]:
    """Return the members: the experiment ``base`` with the values of each combination.

    Raises:
        UserError: an option does not exist, a value is not allowed, or two members are the same experiment.
    """
    known = [*flatten(base.to_dict()), "model", DESIGN_SPACE]
    for axis in sweep.axes:
        for option in axis.options:
            # A variant of another family has other options, which its own check knows.
            if option not in known and not (option.startswith("model.") and _has_option("model", sweep)):
                choose("option", option, known)
    members = tuple(Member(values, with_options(base, values)) for values in sweep.combinations())
    titles: dict[Experiment, str] = {}
    for member in members:
        if (other := titles.setdefault(member.experiment, member.title)) != member.title:
            raise UserError(f"two members are the same experiment: {other}; and {member.title}; remove one of them")
    return members


def with_options(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Return the experiment with the given options changed; ``model`` is the name of a variant."""
    changes = {option: value for option, value in values.items() if option != DESIGN_SPACE}
    if "model" in changes:
        changes["model"] = variant_like(experiment.model, changes["model"])
    return _replaced(experiment, changes)


def _replaced(part: Any, options: Mapping[str, Any]) -> Any:
    """Return a section with all options changed at once, so that rules relating them are checked on the result only."""
    changes = {option: value for option, value in options.items() if "." not in option}
    nested: dict[str, dict[str, Any]] = {}
    for option, value in options.items():
        name, dot, rest = option.partition(".")
        if dot:
            nested.setdefault(name, {})[rest] = value
    for name, inner in nested.items():
        section = changes.get(name, getattr(part, name, None))
        if not isinstance(section, Schema):
            raise UserError(f"{quoted(name)} is not a section with options; remove what follows the dot")
        changes[name] = _replaced(section, inner)
    return part.replace(**changes)


def _has_option(option: str, sweep: Sweep) -> bool:
    return any(option in axis.options for axis in sweep.axes)


def select(members: Sequence[Member], only: Sequence[str]) -> tuple[Member, ...]:
    """Return the members that have the values in ``only``, each given as ``OPTION=VALUE``.

    Several values of one option select the members with any of them.

    Raises:
        UserError: no member has such an option or value, or no member has all of them.
    """
    wanted: dict[str, list[str]] = {}
    for text in only:
        option, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--only is given {quoted(text)}; it must be AXIS=VALUE, such as model.activation=relu")
        choose("axis", option, dict.fromkeys(name for member in members for name in member.values))
        labels = dict.fromkeys(label(member.values[option]) for member in members if option in member.values)
        wanted.setdefault(option, []).append(choose(f"value of {option}", _as_label(value, labels), labels))
    selected = tuple(
        member for member in members
        if all(o in member.values and label(member.values[o]) in allowed for o, allowed in wanted.items())
    )  # fmt: skip
    if not selected:
        raise UserError(f"no member has {' and '.join(only)}; leave out one of them")
    return selected


def _as_label(text: str, labels: Mapping[str, None]) -> str:
    """Return the label that a text names: the same text, or the same number, such as 1e-3 for 0.001."""
    if text in labels:
        return text
    return next((known for known in labels if _number(known) is not None and _number(known) == _number(text)), text)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def groups(members: Sequence[Member]) -> list[tuple[Member, ...]]:
    """Divide members into groups that share the compiled programs of training and evaluation, and the data."""
    by_program: dict[Any, list[Member]] = {}
    for member in members:
        experiment = member.experiment
        key = program_of(experiment), experiment.data, experiment.train.eval_batch_size
        by_program.setdefault(key, []).append(member)
    return [tuple(group) for group in by_program.values()]
