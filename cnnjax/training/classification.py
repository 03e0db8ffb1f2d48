"""Figures of a classifier from its logits and the true labels, in float64 on the host."""

from typing import NamedTuple

import numpy as np

CALIBRATION_BINS = 15


class ClassFigures(NamedTuple):
    """Per class, float64 [classes]; a figure without a single case to judge it by is NaN."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


class Report(NamedTuple):
    """What ``scripts/evaluate.py`` prints. ``confusion[i, j]`` counts images of class i that were called j."""

    images: int
    loss: float
    top1: float
    top5: float
    calibration_error: float
    confusion: np.ndarray
    per_class: ClassFigures


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities float64 [N, classes]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True).astype(np.float64))
    return shifted / shifted.sum(axis=1, keepdims=True)


def top_classes(probabilities: np.ndarray, k: int) -> np.ndarray:
    """Return the k likeliest classes int [N, k], likeliest first; of equal ones the lower class first."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :k]


def classification_report(logits: np.ndarray, labels: np.ndarray) -> Report:
    """Judge logits float [N, classes] against labels int [N]."""
    probabilities = softmax(logits)
    best = top_classes(probabilities, 5)
    hits = best == labels[:, None]
    confusion = np.zeros((logits.shape[1], logits.shape[1]), np.int64)
    np.add.at(confusion, (labels, best[:, 0]), 1)
    own = probabilities[np.arange(len(labels)), labels]
    return Report(
        images=len(labels),
        loss=float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean()),
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(axis=1).mean()),
        calibration_error=calibration_error(probabilities.max(axis=1), hits[:, 0]),
        confusion=confusion,
        per_class=class_figures(confusion),
    )


def class_figures(confusion: np.ndarray) -> ClassFigures:
    """Return precision, recall and F1 of each class from the confusion matrix."""
    right = np.diag(confusion).astype(np.float64)
    called, support = confusion.sum(axis=0), confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return ClassFigures(right / called, right / support, 2 * right / (called + support), support)


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error over 15 equal bins of confidence (Guo et al. 2017, equation 3)."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    confidences = np.bincount(bins, confidence, CALIBRATION_BINS)
    rights = np.bincount(bins, right.astype(np.float64), CALIBRATION_BINS)
    return float(np.abs(confidences - rights).sum() / counts.sum())
