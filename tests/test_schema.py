import json
from typing import Annotated, Generic, Literal, TypeVar

import jax
import jax.numpy as jnp
import pytest
from pydantic import Field, model_validator

from cnnjax import create
from cnnjax.config import Duration, Experiment, Share
from cnnjax.errors import UserError
from cnnjax.models.layers import Arch
from cnnjax.models.lenet import LeNet
from cnnjax.runs.folder import experiment_from_dict
from cnnjax.schema import Number, Schema


class Inner(Schema):
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)


class Outer(Schema):
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


def test_a_missing_field_gets_its_default():
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
def test_wrong_types_are_refused_by_the_constructor(options, message):
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
def test_invalid_data_is_refused_with_the_field_name(data, message):
    with pytest.raises(UserError) as error:
        Outer.from_dict(data)
    assert str(error.value) == message


def test_replace_refuses_an_unknown_option():
    assert Inner().replace(rate=1.0).rate == 1.0
    with pytest.raises(UserError, match="Inner has no option 'rat'; did you mean 'rate'"):
        Inner().replace(rat=1.0)


ModelT = TypeVar("ModelT")


class Mixup(Schema, at="mixup."):
    alpha: Annotated[Number, Field(gt=0)] = 0.2
    kind: Literal["beta", "uniform"] | None = None


class Phase(Schema, at="phase."):
    length: Duration
    lr: Annotated[Number, Field(gt=0)] = 0.1
    mixup: Mixup | None = None


class Teacher(Schema):
    model: Arch
    weight: Share = 0.5


class Grid(Schema, at="grid."):
    size: tuple[int, int] = (1, 1)
    steps: Annotated[tuple[Annotated[int, Field(multiple_of=8)], ...], Field(min_length=1, max_length=2)] = (8,)


class Recipe(Schema, Generic[ModelT], at="--"):
    student: ModelT
    mixup: Mixup | None = None
    phases: tuple[Phase, ...] = ()
    teachers: tuple[Teacher, ...] = ()
    small_net: LeNet | None = None
    grid: Grid = Grid()
    most_steps: Annotated[int, Field(ge=1, le=1000)] = 10

    @model_validator(mode="after")
    def _phases_are_few(self):
        if len(self.phases) > 3:
            raise ValueError("phases are many; give 3 or fewer")
        return self


RECIPES = [
    Recipe(student=None),
    Recipe(student=1.5, mixup=Mixup()),
    Recipe(student="a", mixup=Mixup(alpha=1, kind="beta"), phases=(Phase(length="1ep"),)),
    Recipe(student=0, phases=(Phase(length="5st", mixup=Mixup(alpha=3.0)), Phase(length="0.5ep", lr=1))),
    Recipe(
        student=0, teachers=(Teacher(model=create("lenet", pooling="max")), Teacher(model=create("resnet20_cifar")))
    ),
    Recipe(student=0, small_net=create("lenet", num_classes=3)),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_nested_configs_round_trip_through_plain_data(recipe):
    text = json.dumps(recipe.to_dict())
    restored = Recipe.from_dict(json.loads(text))
    assert restored == recipe and hash(restored) == hash(recipe) and repr(restored) == repr(recipe)
    assert json.dumps(restored.to_dict()) == text
    assert sum(restored == other for other in RECIPES) == 1
    assert recipe.replace(most_steps=3) == Recipe.from_dict({**recipe.to_dict(), "most_steps": 3})


def test_reading_restores_the_class():
    recipe = Recipe.from_dict(json.loads(json.dumps(RECIPES[4].to_dict())))
    assert [type(teacher.model).__name__ for teacher in recipe.teachers] == ["LeNet", "ResNet"]


def test_a_schema_is_a_static_argument_of_jit():
    traced = []

    def scale(recipe, x):
        traced.append(recipe)
        return x * recipe.mixup.alpha

    jitted = jax.jit(scale, static_argnums=0)
    for alpha in (2.0, 2.0, 3.0):
        assert jitted(Recipe(student=0, mixup=Mixup(alpha=alpha)), jnp.float32(1)) == alpha
    assert [recipe.mixup.alpha for recipe in traced] == [2.0, 3.0]


def test_a_schema_is_frozen_and_takes_only_keywords():
    with pytest.raises(AttributeError, match="cannot assign to field 'alpha'"):
        Mixup().alpha = 1.0
    with pytest.raises(TypeError):
        Mixup(1.0)


def test_an_integer_in_a_float_field_stays_an_integer():
    for alpha in (1, 2**60 + 1, 1.0):
        mixup = Mixup.from_dict({"alpha": alpha})
        assert type(mixup.alpha) is type(alpha) and mixup.to_dict()["alpha"] == alpha


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"mixup": 3}, "mixup is 3; it must be Mixup or none"),
        ({"mixup": [{}]}, "mixup is [{}]; it must be Mixup or none"),
        ({"mixup": {"alpah": 3}}, "mixup has no option 'alpah'; did you mean 'alpha'?"),
        ({"mixup": {"alpha": 0}}, "mixup.alpha is 0; it must be greater than 0"),
        ({"mixup": {"kind": "bta"}}, "unknown mixup.kind 'bta'; did you mean 'beta'?"),
        ({"mixup": {"kind": 1}}, "mixup.kind is 1; it must be one of 'beta', 'uniform' or none"),
        ({"grid": {"size": [1]}}, "grid.size is (1,); it must be a list, each item a whole number"),
        ({"grid": {"size": [1, 2, 3]}}, "grid.size is (1, 2, 3); it must be at most 2 items"),
        ({"grid": {"steps": []}}, "grid.steps is (); it must be 1 or more items"),
        ({"grid": {"steps": [8, 8, 8]}}, "grid.steps is (8, 8, 8); it must be at most 2 items"),
        ({"grid": {"steps": [8, 9]}}, "grid.steps is 9; it must be a multiple of 8"),
        ({"phases": {"length": "1ep"}}, "phases is {'length': '1ep'}; it must be a list, each item Phase"),
        ({"phases": [{"length": "1ep"}, {}]}, "phases.1 lacks the field 'length'"),
        ({"phases": [3]}, "phases.0 is 3; it must be an object with named fields"),
        ({"phases": [{"length": "1ep", "lr": "x"}]}, "phases.0.lr is 'x'; it must be a number"),
        (
            {"phases": [{"length": "1"}]},
            "phases.0.length is '1'; it must be epochs such as '5ep' or whole steps such as '1000st'",
        ),
        (
            {"phases": [{"length": "1ep", "mixup": {"alpha": -1}}]},
            "phases.0.mixup.alpha is -1; it must be greater than 0",
        ),
        ({"phases": [{"length": "1ep"}] * 4}, "phases are many; give 3 or fewer"),
        ({"teachers": [{"model": {}}]}, "teachers.0.model is {}; it must be an object with a 'family'"),
        (
            {"teachers": [{"model": {"family": "lenett"}}]},
            "unknown teachers.0.model family 'lenett'; did you mean 'lenet' or 'alexnet' or 'resnet'?",
        ),
        (
            {"teachers": [{"model": {"family": "lenet", "channels": 0}}]},
            "teachers.0.model.channels is 0; it must be 1 or more",
        ),
        ({"small_net": {"family": "mlp"}}, f"small_net is {create('mlp')!r}; it must be LeNet or none"),
        ({"most_steps": 1001}, "--most-steps is 1001; it must be at most 1,000"),
    ],
)
def test_a_nested_error_names_its_path(data, message):
    with pytest.raises(UserError) as error:
        Recipe.from_dict({"student": 0, **data})
    assert str(error.value) == message


NESTED: list = []
for _ in range(100_000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "value",
    [
        True,
        None,
        "1",
        [],
        {},
        NESTED,
        [NESTED],
        {"alpha": NESTED},
        float("nan"),
        float("inf"),
        1e400,
        10**400,
        -(10**5000),
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_an_untrusted_value_is_one_error(value):
    fields = [{"student": 0, "most_steps": value}, {"student": 0, "mixup": {"alpha": value}}]
    fields += [{"student": 0, "phases": [value]}, {"student": 0, "teachers": [{"model": value}]}]
    for data in fields:
        with pytest.raises(UserError) as error:
            Recipe.from_dict(data)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_unknown_and_missing_options_are_refused_by_the_constructor():
    with pytest.raises(UserError, match="Mixup has no option 'alfa'; did you mean 'alpha'?"):
        Mixup(alfa=1.0)
    with pytest.raises(UserError, match="Phase lacks the field 'length'"):
        Phase()


def test_an_experiment_reads_its_model_by_family():
    experiment = Experiment(model=create("resnet20_cifar", width=8))
    assert experiment_from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment


def test_defaults_are_checked():
    class Odd(Schema, at="odd."):
        count: Annotated[int, Field(ge=1)] = 0
        name: str = 3  # type: ignore[assignment]

    with pytest.raises(UserError, match="odd.count is 0; it must be 1 or more"):
        Odd(name="a")
    with pytest.raises(UserError, match="name is 3; it must be text"):
        Odd(count=1)
