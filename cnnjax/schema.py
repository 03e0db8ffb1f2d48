"""Frozen dataclasses that are validated on creation, written as plain dicts and read back strictly.

Every config and every architecture is a `Schema`, a pydantic dataclass. The same code rejects wrong types and values in
Python, on the command line and in JSON files. A bound is part of a field's type: ``Annotated[int, Field(ge=1)]``. Other
rules are pydantic validators. A field validator raises ``ValueError`` with the required value, such as
``ValueError("a divisor of 128")``; a model validator raises it with the complete message.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import ConfigDict, ValidatorFunctionWrapHandler, WrapValidator

from cnnjax.errors import UserError, listed, near_matches, quoted

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, validate_default=True)
RULES = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le:,}",
    "finite_number": "a finite number",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "{min_length} or more items",
    "too_long": "at most {max_length} items",
    "value_error": "{error}",
}
"""Required values by pydantic error type. This covers all bounds in use; any other error is a wrong type."""


def _as_given(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    number = check(value)
    return value if type(value) is int else number


AS_GIVEN = WrapValidator(_as_given)
"""Keeps an int in a float field as an int, as in files of format 1 and in the names of runs."""
Number = Annotated[float, AS_GIVEN]
"""A finite float, or a whole number."""


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
class Schema:
    """Base of the frozen, keyword-only dataclasses that describe an experiment or a network.

    A subclass is a dataclass without a decorator. In errors, a value that is not from a file is named by the prefix
    ``at`` and the field: ``class Optimizer(Schema, at="optimizer.")``.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    _at: ClassVar[str] = ""

    def __init_subclass__(cls, *, at: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._at = cls._at if at is None else at
        pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)(cls)
        cls._validate, cls.__init__ = cls.__init__, Schema.__init__  # type: ignore[method-assign]

    def __init__(self, **values: Any) -> None:
        self._fill(values)

    def _fill(self, values: dict[str, Any], where: str = "") -> None:
        """Set the fields; ``where`` is the dotted path in a file."""
        try:
            self._validate(**values)
        except pydantic.ValidationError as error:
            raise UserError(_message(type(self), values, error, where)) from None

    def _validate(self, **values: Any) -> None:
        """Set the fields; every subclass replaces this with pydantic's ``__init__``."""

    def replace(self, **options: Any) -> Self:
        """Return a copy with some fields changed; an unknown name raises UserError with near matches."""
        return dataclasses.replace(self, **options)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain dicts and lists, for JSON."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: object, where: str = "") -> Self:
        """Read the output of `to_dict`. ``where`` is the dotted path of ``data``, for errors.

        A missing field takes its default, so that files of older versions can be read. A field may hold a `Schema`, an
        optional `Schema` or a tuple of them.
        """
        if not isinstance(data, Mapping):
            raise UserError(f"{where or 'the config'} is {quoted(data)}; it must be an object with named fields")
        hints = typing.get_type_hints(cls, include_extras=True)
        prefix = f"{where}." if where else ""
        new = cls.__new__(cls)
        new._fill({name: _read(value, hints.get(name), f"{prefix}{name}") for name, value in data.items()}, where)
        return new


def describe(hint: Any) -> str:
    """Return a type in words: ``a whole number``, ``one of 'avg', 'max'``."""
    return " or ".join(map(_describe_one, _members(hint)))


def _describe_one(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if _is_literal(hint):
        return "one of " + listed(map(repr, arguments))
    if typing.get_origin(hint) is tuple:
        return f"a list, each item {describe(arguments[0])}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "none"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is Literal


def _members(hint: Any) -> list[Any]:
    """Return the types that a union allows, without their annotations."""
    if typing.get_origin(hint) is Annotated:
        return _members(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [member for argument in typing.get_args(hint) for member in _members(argument)]
    return [hint]


def _message(cls: type[Schema], values: Mapping[str, Any], error: pydantic.ValidationError, where: str) -> str:
    """Return the message for pydantic's first error; unknown and missing names take precedence."""
    order = {"unexpected_keyword_argument": 0, "missing": 1}
    problem = min(error.errors(include_url=False), key=lambda problem: order.get(problem["type"], 2))
    kind, context = problem["type"], problem.get("ctx", {})
    if not problem["loc"]:  # from a model validator
        return str(context["error"])
    name = str(problem["loc"][0])
    if kind == "unexpected_keyword_argument":
        return f"{where or cls.__name__} has no option {quoted(name)}; {near_matches(name, cls.__dataclass_fields__)}"
    if kind == "missing" and len(problem["loc"]) == 1:
        return f"{where or cls.__name__} lacks the field {name!r}"
    if kind in RULES:
        place = f"{where}.{name}" if where else f"{cls._at}{name}"
        if place.startswith("--"):
            place = place.replace("_", "-")
        return f"{place} is {quoted(problem['input'])}; it must be {RULES[kind].format(**context)}"
    place, hint = f"{where}.{name}" if where else name, typing.get_type_hints(cls)[name]
    value = values.get(name, problem["input"])  # the whole value if the input is one of its items
    choices = [choice for member in _members(hint) if _is_literal(member) for choice in typing.get_args(member)]
    if choices and isinstance(value, str):
        return f"unknown {place} {quoted(value)}; {near_matches(value, choices)}"
    return f"{place} is {quoted(value)}; it must be {describe(hint)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Schema):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _read(value: Any, hint: Any, where: str) -> Any:
    """Convert a JSON value to the type of its field: lists to tuples, objects to the `Schema` that the field allows."""
    members = _members(hint)
    items = [typing.get_args(member)[0] for member in members if typing.get_origin(member) is tuple]
    if items and isinstance(value, list):
        return tuple(_read(item, items[0], f"{where}.{index}") for index, item in enumerate(value))
    schemas = [member for member in members if isinstance(member, type) and issubclass(member, Schema)]
    if len(schemas) == 1 and (isinstance(value, Mapping) or len(members) == 1):
        return schemas[0].from_dict(value, where)
    return value
