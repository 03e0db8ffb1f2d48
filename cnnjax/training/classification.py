"""Metrics of a classifier, computed from logits and labels in float64 on the host."""

from typing import NamedTuple

import numpy as np

CALIBRATION_BINS = 15


class ClassFigures(NamedTuple):
    """Metrics per class, float64 [classes]; NaN if a metric has no cases."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


class Report(NamedTuple):
    """Metrics that ``scripts/evaluate.py`` prints. ``confusion[i, j]`` counts images of class i predicted as j."""

    images: int
    loss: float
    top1: float
    top5: float
    calibration_error: float
    confusion: np.ndarray
    per_class: ClassFigures
    reliability: tuple[list[float], list[tuple[int, float, float]]]
    """Confidence bins, as returned by the function `reliability`."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities float64 [N, classes]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True).astype(np.float64))
    return shifted / shifted.sum(axis=1, keepdims=True)


def top_classes(probabilities: np.ndarray, k: int) -> np.ndarray:
    """Return the k most likely classes int [N, k], most likely first; ties go to the lower class."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :k]


def classification_report(logits: np.ndarray, labels: np.ndarray) -> Report:
    """Evaluate logits float [N, classes] against labels int [N]."""
    probabilities = softmax(logits)
    best = top_classes(probabilities, 5)
    hits = best == labels[:, None]
    confusion = np.zeros((logits.shape[1], logits.shape[1]), np.int64)
    np.add.at(confusion, (labels, best[:, 0]), 1)
    of_label = probabilities[np.arange(len(labels)), labels]
    return Report(
        images=len(labels),
        loss=float(-np.log(np.maximum(of_label, np.finfo(np.float64).tiny)).mean()),
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(axis=1).mean()),
        calibration_error=calibration_error(probabilities.max(axis=1), hits[:, 0]),
        confusion=confusion,
        per_class=class_figures(confusion),
        reliability=reliability(probabilities.max(axis=1), hits[:, 0]),
    )


def class_figures(confusion: np.ndarray) -> ClassFigures:
    """Return precision, recall and F1 of each class from the confusion matrix."""
    correct = np.diag(confusion).astype(np.float64)
    predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return ClassFigures(correct / predicted, correct / support, 2 * correct / (predicted + support), support)


def reliability(confidence: np.ndarray, correct: np.ndarray) -> tuple[list[float], list[tuple[int, float, float]]]:
    """Return the edges of 15 equal bins of confidence, and (images, mean confidence, accuracy) of each bin."""
    counts, confidences, hits = _bins(confidence, correct)
    at_least_one = np.maximum(counts, 1)
    rows = zip(counts.tolist(), (confidences / at_least_one).tolist(), (hits / at_least_one).tolist(), strict=True)
    return np.linspace(0, 1, CALIBRATION_BINS + 1).tolist(), list(rows)


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the expected calibration error over 15 equal bins of confidence (Guo et al. 2017, equation 3)."""
    counts, confidences, hits = _bins(confidence, correct)
    return float(np.abs(confidences - hits).sum() / counts.sum())


def _bins(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of images, the sum of confidences and the number of correct predictions of each bin."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    confidences = np.bincount(bins, confidence, CALIBRATION_BINS)
    return counts, confidences, np.bincount(bins, correct.astype(np.float64), CALIBRATION_BINS)
