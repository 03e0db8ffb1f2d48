"""ImageNet's classes, and the functions named after Keras's."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.errors import UserError
from cnnjax.imagenet import decode_predictions, imagenet_classes, preprocess, wordnet_ids


def test_there_are_1000_classes_in_the_order_of_their_ids():
    classes = imagenet_classes()
    assert len(classes) == len(set(wordnet_ids())) == 1000
    assert list(wordnet_ids()) == sorted(wordnet_ids())
    assert classes[0] == ("n01440764", "tench")
    assert classes[51] == ("n01704323", "triceratops")
    assert classes[999] == ("n15075141", "toilet_tissue")
    assert all(name and not set(name) & set(" ,\t") for _, name in classes)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("caffe", [(30 - 103.939), (20 - 116.779), (10 - 123.68)]),
        ("tf", [10 / 127.5 - 1, 20 / 127.5 - 1, 30 / 127.5 - 1]),
        ("torch", [(10 / 255 - 0.485) / 0.229, (20 / 255 - 0.456) / 0.224, (30 / 255 - 0.406) / 0.225]),
    ],
)
def test_preprocessing_by_its_definition(mode, expected):
    pixels = np.full((2, 3, 5, 3), (10, 20, 30), np.uint8)
    for images in (pixels, pixels.astype(np.float32), jnp.asarray(pixels)):
        result = preprocess(images, mode)
        assert (result.shape, result.dtype) == ((2, 3, 5, 3), jnp.float32)
        np.testing.assert_allclose(result, np.broadcast_to(expected, pixels.shape), atol=1e-4)
        np.testing.assert_array_equal(preprocess(images[0], mode), result[0])


@pytest.mark.parametrize(
    ("shape", "mode", "message"),
    [
        ((2, 4, 4, 3), "keras", "unknown mode 'keras'"),
        ((4, 4), "tf", "must be \\[N, H, W, 3\\]"),
        ((2, 4, 4, 1), "tf", "must be \\[N, H, W, 3\\]"),
    ],
)
def test_other_modes_and_shapes_are_refused(shape, mode, message):
    with pytest.raises(UserError, match=message):
        preprocess(np.zeros(shape, np.uint8), mode)


def test_predictions_are_decoded_with_their_probabilities():
    logits = np.zeros((2, 1000), np.float32)
    logits[0, 51], logits[0, 0] = 20, 8
    logits[1, 999] = 3
    first, second = decode_predictions(jnp.asarray(logits), top=2)
    assert [answer[:2] for answer in first] == [("n01704323", "triceratops"), ("n01440764", "tench")]
    assert second[0][:2] == ("n15075141", "toilet_tissue")
    probabilities = np.exp(logits[0]) / np.exp(logits[0]).sum()
    assert first[0][2] == pytest.approx(probabilities[51])
    assert len(decode_predictions(logits)[0]) == 3
    for shape in ((1000,), (1, 999)):
        with pytest.raises(UserError, match="must be \\[N, 1000\\]"):
            decode_predictions(np.zeros(shape))
    with pytest.raises(UserError, match="top is 0"):
        decode_predictions(logits, top=0)
