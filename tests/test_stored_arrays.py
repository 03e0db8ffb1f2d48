"""Arrays are read by another process, whose memory is bounded."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import checkpoint, stored_arrays
from cnnjax.stored_arrays import read_arrays

TREE = {"large": jnp.zeros((4096, 4096)), "small": (jnp.bfloat16(1.5), [jnp.array([True, False])])}
KINDS = {
    "large": ((4096, 4096), np.dtype("float32")),
    "small.0": ((), np.dtype(jnp.bfloat16)),
    "small.1.0": ((2,), np.dtype(bool)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint.save(tmp_path_factory.mktemp("run"), 1, {"variables": TREE}, {}).path / "variables"


def test_arrays_of_every_depth_and_kind_come_back(folder):
    found = read_arrays(folder, KINDS)
    assert {name: (array.shape, array.dtype) for name, array in found.items()} == KINDS
    assert not found["large"].any()
    assert found["small.0"] == jnp.bfloat16(1.5) and found["small.1.0"].tolist() == [True, False]


def test_what_takes_more_memory_than_it_should_is_refused(folder, monkeypatch):
    monkeypatch.setattr(stored_arrays, "MEMORY", 2**26)
    monkeypatch.setattr(stored_arrays, "COPIES", 0)
    with pytest.raises(ValueError, match="it cannot be read within 64 MiB of memory"):
        read_arrays(folder, KINDS)


@pytest.mark.parametrize("wrong", [((4096, 4095), np.dtype("float32")), ((4096, 4096), np.dtype("int32"))])
def test_another_shape_or_dtype_is_refused(folder, wrong):
    with pytest.raises(ValueError, match=r"large is float32\[4096, 4096\] in chunks of .*; it must be"):
        read_arrays(folder, {"large": wrong})
