import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cnnjax.data.crops import ATTEMPTS, RATIOS, draw_boxes, resize_boxes

SIZES = st.integers(1, 2000)


@given(seed=st.integers(0, 2**63), epoch=st.integers(0, 2**31), index=st.integers(0, 2**40), height=SIZES, width=SIZES)
def test_boxes_are_inside_the_image(seed, epoch, index, height, width):
    [(top, left, box_height, box_width)] = draw_boxes(
        seed, epoch, np.array([index]), np.array([height]), np.array([width]), 0.08
    )
    assert 0 <= top <= top + box_height <= height
    assert 0 <= left <= left + box_width <= width
    assert box_height >= 1
    assert box_width >= 1


def test_areas_and_ratios_follow_torchvision_s_distribution():
    count = 20_000
    boxes = draw_boxes(0, 0, np.arange(count), np.full(count, 1000), np.full(count, 1000), 0.25)
    area, ratio = boxes[:, 2] * boxes[:, 3] / 1e6, boxes[:, 3] / boxes[:, 2]
    low, high = RATIOS
    assert 0.249 < area.min() < 0.26
    assert 0.95 < area.max() <= 1
    assert low - 0.01 < ratio.min() < low + 0.01
    assert high - 0.01 < ratio.max() < high + 0.01
    # Torchvision's distribution: area uniform, ratio log-uniform, apart from boxes that do not fit.
    small = area < 0.6
    assert np.log(ratio[small]).mean() == pytest.approx(0, abs=0.01)
    assert np.histogram(area[small], 5, (0.25, 0.6))[0] == pytest.approx(small.sum() / 5, rel=0.05)


def test_a_box_is_a_function_of_seed_epoch_and_index():
    count = 1000
    heights, widths = np.arange(count) % 37 + 200, np.arange(count) % 41 + 180
    boxes = draw_boxes(3, 7, np.arange(count), heights, widths, 0.08)
    for picked in (np.array([999, 0, 500]), np.random.default_rng(0).permutation(count)[:300], np.arange(0)):
        assert np.array_equal(draw_boxes(3, 7, picked, heights[picked], widths[picked], 0.08), boxes[picked])
    assert not np.array_equal(draw_boxes(3, 8, np.arange(count), heights, widths, 0.08), boxes)
    assert not np.array_equal(draw_boxes(4, 7, np.arange(count), heights, widths, 0.08), boxes)


@pytest.mark.parametrize(("size", "expected"), [((90, 10), (38, 0, 13, 10)), ((10, 90), (0, 38, 10, 13))])
def test_the_largest_centered_box_is_used_if_no_draw_fits(size, expected, monkeypatch):
    monkeypatch.setattr("cnnjax.data.crops._uniforms", lambda *_: np.full((1, ATTEMPTS, 4), 0.99))
    assert tuple(draw_boxes(0, 0, np.array([0]), *np.array(size)[:, None], 0.9)[0]) == expected


@pytest.mark.compiles_large
def test_resizing_on_the_device_equals_pillow():
    rng = np.random.default_rng(0)
    images = np.stack(
        [np.asarray(Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).resize((64, 48))) for _ in range(6)]
    )
    boxes = draw_boxes(0, 0, np.arange(6), np.full(6, 48), np.full(6, 64), 0.08)
    actual = np.asarray(resize_boxes(images, boxes)).astype(int)
    for image, (top, left, height, width), pixels in zip(images, boxes.tolist(), actual, strict=True):
        box = (left, top, left + width, top + height)
        expected = np.asarray(Image.fromarray(image).resize((64, 48), Image.Resampling.BILINEAR, box=box)).astype(int)
        assert abs(expected - pixels).max() <= 1
