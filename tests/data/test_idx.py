import gzip

import numpy as np
import pytest

from cnnjax.data.idx import read_idx, write_idx
from cnnjax.errors import UserError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"images{suffix}"
    write_idx(path, IMAGES)
    assert np.array_equal(read_idx(path, axes=3), IMAGES)


def test_gzipped_files_are_reproducible(tmp_path):
    write_idx(tmp_path / "a.gz", IMAGES)
    write_idx(tmp_path / "b.gz", IMAGES)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def whole() -> bytes:
    return bytes([0, 0, 8, 3]) + np.array([2, 3, 4], ">u4").tobytes() + IMAGES.tobytes()


DAMAGED = {
    "empty": (b"", "is not an IDX file: its first bytes are missing"),
    "header cut": (whole()[:10], "is not an IDX file"),
    "wrong magic": (b"PK" + whole()[2:], "is not an IDX file: its first bytes are 504b0803"),
    "wrong type": (bytes([0, 0, 13, 3]) + whole()[4:], "holds IDX type 13 with 3 axes"),
    "labels for images": (bytes([0, 0, 8, 1]) + whole()[4:], "with 1 axes; type 8 .* with 3 axes is needed"),
    "truncated": (whole()[:-5], r"declares 24 bytes \[2, 3, 4\] but holds 19"),
    "too long": (whole() + b"x", "declares 24 bytes .* but holds more"),
    "a terabyte": (bytes([0, 0, 8, 3]) + b"\xff" * 12 + b"123", "says it holds 79,228,.* are allowed"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_damaged_file_is_one_error(tmp_path, name, suffix):
    content, message = DAMAGED[name]
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(UserError, match=message):
        read_idx(path, axes=3)


@pytest.mark.parametrize("cut", [1, 5, 12, 20, 30])
def test_a_truncated_gzip_is_one_error(tmp_path, cut):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(whole())[:cut])
    with pytest.raises(UserError, match="images.gz"):
        read_idx(path, axes=3)


def test_an_unpacked_file_with_a_gz_suffix_is_read(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(whole())
    assert read_idx(path, axes=3).ndim == 3
