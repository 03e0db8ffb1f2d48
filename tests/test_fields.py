import dataclasses
from typing import Literal

import pytest

from cnnjax.errors import UserError
from cnnjax.fields import Fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(Fields):
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer(Fields):
    name: str
    kind: Literal["avg", "max"] = "avg"
    limit: int | None = None
    on: bool = False
    inner: Inner = Inner()


def test_round_trip_through_plain_data():
    outer = Outer(name="a", kind="max", limit=3, inner=Inner(rate=2, sizes=(4,)))
    data = outer.to_dict()
    assert data == {
        "name": "a", "kind": "max", "limit": 3, "on": False, "inner": {"rate": 2, "sizes": [4]},
    }  # fmt: skip
    assert Outer.from_dict(data) == outer


def test_a_missing_field_takes_its_default():
    assert Outer.from_dict({"name": "a"}) == Outer(name="a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": 1}, "name is 1; it must be text"),
        ({"name": "a", "kind": "mx"}, "unknown kind 'mx'; did you mean 'max'?"),
        ({"name": "a", "kind": 3}, "kind is 3; it must be one of 'avg', 'max'"),
        ({"name": "a", "limit": "x"}, "limit is 'x'; it must be a whole number or none"),
        ({"name": "a", "limit": True}, "limit is True; it must be a whole number or none"),
        ({"name": "a", "on": 1}, "on is 1; it must be true or false"),
    ],
)
def test_wrong_types_are_refused_in_python(options, message):
    with pytest.raises(UserError) as error:
        Outer(**options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the config is []; it must be an object with named fields"),
        ({}, "Outer lacks the field 'name'"),
        ({"name": "a", "inner": 3}, "inner is 3; it must be an object with named fields"),
        ({"name": "a", "inner": {"rte": 3}}, "inner has no option 'rte'; did you mean 'rate'?"),
        ({"name": "a", "inner": {"rate": "x"}}, "inner.rate is 'x'; it must be a number"),
        (
            {"name": "a", "inner": {"sizes": ["x"]}},
            "inner.sizes is ('x',); it must be a list, each item a whole number",
        ),
    ],
)
def test_wrong_data_is_refused_with_its_place(data, message):
    with pytest.raises(UserError) as error:
        Outer.from_dict(data)
    assert str(error.value) == message


def test_replace_refuses_an_unknown_option():
    assert Inner().replace(rate=1.0).rate == 1.0
    with pytest.raises(UserError, match="Inner has no option 'rat'; did you mean 'rate'"):
        Inner().replace(rat=1.0)
