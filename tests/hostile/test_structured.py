"""Inputs that Hypothesis builds piece by piece, which reach deeper into a reader than damaged bytes."""

import contextlib
import json
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.convert.weight_files import open_tensors
from cnnjax.errors import UserError
from cnnjax.models import FAMILIES
from cnnjax.runs.folder import experiment_from_dict
from tests.hostile.formats import PREPROCESSING

MANY = settings(max_examples=4 * settings().max_examples)
"""More examples than usual, because these are cheap."""
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner))


PARTS = ("data", "optimizer", "schedule", "train", "early_stopping", "seed")


def fields_of(cls) -> st.SearchStrategy:
    """Return a strategy for objects with some fields of a dataclass and arbitrary JSON values."""
    names = st.sampled_from(list(cls.__dataclass_fields__))
    return st.dictionaries(names, JSON, max_size=4)


@MANY
@given(family=st.sampled_from(list(FAMILIES)), data=st.data())
@pytest.mark.many_inputs
def test_model_configs_are_read_or_refused(family, data):
    model = {"family": family, **data.draw(fields_of(FAMILIES[family]))}
    with contextlib.suppress(UserError):
        experiment_from_dict(json.loads(json.dumps({"model": model})))


@MANY
@given(
    parts=st.dictionaries(st.sampled_from(["data", "optimizer", "schedule", "train", "early_stopping", "seed"]), JSON)
)
def test_experiment_configs_are_read_or_refused(parts):
    with contextlib.suppress(UserError):
        experiment_from_dict(json.loads(json.dumps({"model": {"family": "lenet"}, **parts})))


@MANY
@given(data=fields_of(type(PREPROCESSING)))
def test_preprocessing_configs_are_read_or_refused(data):
    with contextlib.suppress(UserError):
        type(PREPROCESSING).from_dict({**PREPROCESSING.to_dict(), **data}, "preprocessing")


PIECES = st.sampled_from(
    [
        b"}", b"]", b")", b"(", b"t", b"\x85", b"\x86", b"\x87", b"l", b"a", b"e", b"s", b"u", b"R", b"Q", b"b", b"N",
        b"\x88", b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"\x94", b"K\x00", b"K\x02", b"J\xff\xff\xff\xff",
        b"X\x01\0\0\x000", b"X\x07\0\0\0storage", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n", b"ccollections\nOrderedDict\n", b"cos\nsystem\n", b"\x93", b"0", b"2",
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x10tQ",
    ]
)  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
def test_arbitrary_pickle_instructions_are_read_or_refused(zipped, tmp_path):
    @MANY
    @given(pieces=st.lists(PIECES, max_size=30))
    def check(pieces):
        path, pickled = tmp_path / "a.pth", b"\x80\x02" + b"".join(pieces) + b"."
        if zipped:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", pickled)
                archive.writestr("archive/data/0", bytes(64))
        else:
            start = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\r\0\0\0little_endian\x88s."
            path.write_bytes(start + pickled + b"\x80\x02](X\x01\0\0\x000e." + (16).to_bytes(8, "little") + bytes(64))
        with contextlib.suppress(UserError), open_tensors(path, 2**20) as tensors:
            for name, shape in tensors.shapes.items():
                assert tensors.read(name).shape == shape.shape

    check()
