"""Frozen dataclasses as data: checked when made, written as plain dicts and read back strictly.

Every config and every architecture is a `Fields`. Wrong types are refused in Python, on the command line and in a JSON
file by the same code.
"""

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Self

from cnnjax.errors import UserError, near_matches, quoted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
    """Base of the frozen dataclasses that describe an experiment or a network."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            check_type(field.name, getattr(self, field.name), hints[field.name])

    def replace(self, **options: Any) -> Self:
        """Return a copy with some fields changed; an unknown name is refused with near matches."""
        check_names(type(self), options, type(self).__name__)
        return dataclasses.replace(self, **options)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain dicts and lists that JSON can hold."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: object, where: str = "") -> Self:
        """Read what `to_dict` wrote. ``where`` is the dotted place of ``data``, named in errors.

        A missing field takes its default, so that files of an older version open.
        """
        if not isinstance(data, Mapping):
            raise UserError(f"{where or 'the config'} is {quoted(data)}; it must be an object with named fields")
        check_names(cls, data, where or cls.__name__)
        hints = typing.get_type_hints(cls)
        required = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
        if missing := sorted(required - set(data)):
            raise UserError(f"{where or cls.__name__} lacks the field {missing[0]!r}")
        prefix = f"{where}." if where else ""
        values = {name: _read(value, hints[name], f"{prefix}{name}") for name, value in data.items()}
        return cls(**values)


def check_names(cls: Any, given: Mapping[str, Any], where: str) -> None:
    """Refuse names that are no fields of the dataclass ``cls``."""
    names = [field.name for field in dataclasses.fields(cls)]
    for name in given:
        if name not in names:
            raise UserError(f"{where} has no option {quoted(name)}; {near_matches(str(name), names)}")


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raise UserError unless ``value`` is of the annotated type ``hint``."""
    if _fits(value, hint):
        return
    if typing.get_origin(hint) is typing.Literal and isinstance(value, str):
        raise UserError(f"unknown {name} {quoted(value)}; {near_matches(value, typing.get_args(hint))}")
    raise UserError(f"{name} is {quoted(value)}; it must be {describe(hint)}")


def is_number(value: Any, least: float, most: float, kind: type = float) -> bool:
    """Return whether a value from a file is a number of the kind, not NaN, and within the bounds."""
    return _fits(value, kind) and least <= value <= most


def describe(hint: Any) -> str:
    """Return a type as a user reads it: ``a whole number``, ``one of 'avg', 'max'``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is tuple:
        return f"a list, each item {describe(arguments[0])}"
    if isinstance(hint, typing.TypeVar):
        return "a definition, such as create('lenet')"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "none"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if isinstance(hint, typing.TypeVar):
        return isinstance(value, Fields)
    if hint is float:
        # A whole number beyond the largest float is none.
        return isinstance(value, float) or (_fits(value, int) and abs(value) <= sys.float_info.max)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _plain(value: Any) -> Any:
    if isinstance(value, Fields):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _read(value: Any, hint: Any, where: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, Fields):
        return hint.from_dict(value, where)
    if isinstance(value, list):
        value = tuple(value)
    check_type(where, value, hint)
    return value
