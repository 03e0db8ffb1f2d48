import numpy as np
import pytest

from cnnjax.training.classification import calibration_error, class_figures, classification_report, softmax, top_classes


def test_precision_recall_and_f1_of_a_known_matrix():
    figures = class_figures(np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    np.testing.assert_allclose(figures.precision, [3 / 5, 4 / 5, np.nan])
    np.testing.assert_allclose(figures.recall, [3 / 4, 4 / 6, np.nan])
    np.testing.assert_allclose(figures.f1, [2 * 0.6 * 0.75 / 1.35, 2 * 0.8 * (4 / 6) / (0.8 + 4 / 6), np.nan])
    assert figures.support.tolist() == [4, 6, 0]


def test_a_perfectly_calibrated_classifier_has_zero_calibration_error():
    confidence = np.full(10, 0.7)
    assert calibration_error(confidence, np.arange(10) < 7) == pytest.approx(0)
    assert calibration_error(confidence, np.arange(10) < 5) == pytest.approx(0.2)
    assert calibration_error(np.ones(4), np.array([True, True, True, False])) == pytest.approx(0.25)


def test_calibration_bins_are_weighted_by_their_images():
    confidence = np.array([0.95, 0.95, 0.95, 0.35])
    right = np.array([True, True, True, True])
    assert calibration_error(confidence, right) == pytest.approx((3 * 0.05 + 0.65) / 4)


def test_the_report_of_known_logits():
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]]))
    report = classification_report(logits, np.array([0, 1, 1]))
    assert report.top1 == pytest.approx(2 / 3)
    assert report.top5 == 1
    assert report.loss == pytest.approx(-np.log([0.5, 0.8, 0.3]).mean())
    assert report.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_huge_logits_do_not_overflow():
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, 0.0]])), [[1, 0], [0, 1]])


def test_ties_go_to_the_lower_class():
    assert top_classes(np.array([[0.25, 0.25, 0.4, 0.1]]), 3).tolist() == [[2, 0, 1]]
