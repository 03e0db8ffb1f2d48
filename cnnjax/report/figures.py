"""The figures of a report, drawn with matplotlib. No display is needed."""

import io
import itertools
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnnjax.data import Source
from cnnjax.errors import printable
from cnnjax.system.files import write_bytes
from cnnjax.training.classification import class_figures, classification_report

COLORS = {"train": "#8a8a8a", "validation": "#1f6feb"}
METRICS = {"loss": "loss", "top1": "top-1"}
MISTAKES_SHOWN = 24
MAPS_SHOWN = 16
BARE: dict[str, Any] = {"xticks": [], "yticks": []}
"""Options of axes that show only an image; invisible ticks would take half of the drawing time."""


def label(text: str) -> str:
    """Return text from a file, such as a class name, as matplotlib draws it literally."""
    return printable(text).replace("$", r"\$")  # text between two $ would be a formula


def save(figure: Figure, path: Path) -> None:
    """Save a figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def curves(rows: list[dict[str, Any]], best_epoch: int, metric: str, label_smoothing: float) -> Figure:
    """Plot training and validation loss and top-1 per epoch, and mark the epoch that is best by ``metric``.

    Dotted lines separate the phases of transfer learning.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    for axes, name, scale in zip(figure.subplots(1, 2), ("loss", "top1"), (1, 100), strict=True):
        for part, color in COLORS.items():
            smoothed = " (smoothed labels)" if label_smoothing and (part, name) == ("train", "loss") else ""
            axes.plot(
                epochs, [scale * row[f"{part}_{name}"] for row in rows], color=color, marker=".", label=part + smoothed
            )
        best = scale * rows[best_epoch - 1][f"validation_{name}"]
        why = "the last" if metric == "last" else f"best by validation {METRICS[metric]}"
        label = f"epoch {best_epoch}, {why}: " + (f"{best:.4f}" if name == "loss" else f"{best:.2f} %")
        axes.plot(best_epoch, best, "o", color=COLORS["validation"], markersize=9, fillstyle="none", label=label)
        starts = [row["epoch"] for before, row in itertools.pairwise(rows) if before.get("phase") != row.get("phase")]
        for start in starts:  # of another phase
            axes.axvline(start - 0.5, color="#59636e", linestyle=":", linewidth=1)
        axes.set(xlabel="epoch", ylabel="cross-entropy (nats)" if name == "loss" else "top-1 (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def confusion(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Draw the confusion matrix of the test images: true classes as rows, predictions as columns, in percent."""
    report = classification_report(logits, labels)
    counts = report.confusion
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(5.0, 0.62 * len(classes))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    recall = class_figures(counts).recall
    rows = [f"{name} ({100 * share:.1f} %)" for name, share in zip(classes, recall, strict=True)]
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), rows)
    axes.set(
        xlabel="predicted class", ylabel="true class (recall)", title=f"test images: top-1 {100 * report.top1:.2f} %"
    )
    for i, j in np.argwhere(share >= 1):
        axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=8,
                  color="white" if share[i, j] > 50 else "black")  # fmt: skip
    return figure


def mistakes(probabilities: np.ndarray, test: Source, classes: tuple[str, ...]) -> Figure:
    """Draw the misclassified test images with the highest confidence."""
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES_SHOWN]
    titles = [
        f"{classes[predicted[i]]} {100 * confidence[i]:.0f} %\ntrue: {classes[test.labels[i]]}" for i in chosen
    ]  # fmt: skip
    title = f"{len(wrong)} of {len(predicted)} test images are misclassified; the most confident mistakes"
    return _grid(list(test.read(chosen)), titles, title, columns=8)


def examples(images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], batch_size: int) -> Figure:
    """Draw normalized images float [N, H, W, C] as the network sees them, all on one scale."""
    low, high = float(images.min()), float(images.max())
    scaled = (images - low) / max(high - low, 1e-12)
    which = "all" if len(images) == batch_size else f"{len(images)}"
    values = f"values from {low:.2f} to {high:.2f}"
    title = f"{which} of the first {batch_size} training images as the network sees them ({values})"
    return _grid(list(scaled), [classes[label] for label in labels], title, columns=8)


def filters(
    params: dict[str, Any], image_shape: tuple[int, int, int], image: np.ndarray, stage: str, maps: np.ndarray
) -> Figure:
    """Draw the first kernels, and the feature maps [H, W, C] of the first stage for one image."""
    kernels = first_kernels(params, image_shape)[:MAPS_SHOWN]
    count = maps.shape[2] if maps.shape[0] > 1 else 0  # a dense stage has no feature map
    count = min(count, MAPS_SHOWN)
    columns = max(len(kernels), count) + 1
    figure = Figure(figsize=(1.1 * columns + 0.6, 3.4 if count else 1.9), layout="constrained")
    axes = figure.subplots(2 if count else 1, columns, squeeze=False, subplot_kw=BARE)
    for axis in axes.flat:
        axis.axis("off")
    limit = float(np.abs(kernels).max()) or 1.0
    axes[0, 0].text(1, 0.5, "first\nkernels", ha="right", va="center", transform=axes[0, 0].transAxes)
    for axis, kernel in zip(axes[0, 1:], kernels, strict=False):
        if kernel.shape[2] == 3:
            axis.imshow(0.5 + 0.5 * kernel / limit)
        else:
            axis.imshow(kernel.mean(axis=2), cmap="RdBu", vmin=-limit, vmax=limit)
    if count:
        _show(axes[1, 0], image)
        axes[1, 0].set_title(f"{stage} for", fontsize=9)
        for axis, index in zip(axes[1, 1:], range(count), strict=False):
            axis.imshow(maps[:, :, index], cmap="gray")
    return figure


def stages(images: np.ndarray, maps: dict[str, np.ndarray]) -> Figure:
    """Draw the first feature maps [N, H', W', C'] of every stage for each image uint8 [N, H, W, C]."""
    flat = [name for name, activation in maps.items() if activation.shape[1] > 1]  # a dense stage has no feature map
    per_stage = max(1, min(MAPS_SHOWN // max(len(flat), 1), 6))
    columns = 1 + per_stage * len(flat)
    figure = Figure(figsize=(1.0 * columns + 0.4, 1.15 * len(images) + 0.5), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False, subplot_kw=BARE)
    for axis in axes.flat:
        axis.axis("off")
    for row, image in enumerate(images):
        _show(axes[row, 0], image)
        for stage, name in enumerate(flat):
            activation = maps[name][row]
            for channel in range(min(per_stage, activation.shape[2])):
                axis = axes[row, 1 + stage * per_stage + channel]
                axis.imshow(activation[:, :, channel], cmap="gray")
                if row == channel == 0:
                    axis.set_title(
                        f"{name}\n{activation.shape[0]}x{activation.shape[1]}x{activation.shape[2]}", fontsize=8
                    )
    return figure


def projection(embeddings: dict[str, np.ndarray], labels: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Draw the first two principal components of embeddings [N, D], one panel for each entry, colored by class."""
    figure = Figure(figsize=(5.2 * len(embeddings), 4.6), layout="constrained")
    for axes, (title, vectors) in zip(
        figure.subplots(1, len(embeddings), squeeze=False)[0], embeddings.items(), strict=True
    ):
        points, shares = principal_components(vectors)
        for label in np.unique(labels):
            of_class = points[labels == label]
            axes.scatter(of_class[:, 0], of_class[:, 1], s=9, alpha=0.7, color=f"C{label % 10}", label=classes[label])
        axes.set(title=title, xlabel=f"{100 * shares[0]:.0f} % of the variance", ylabel=f"{100 * shares[1]:.0f} %")
        axes.set(xticks=[], yticks=[])
        if len(classes) <= 10:
            axes.legend()
    return figure


def explained(pictures: list[np.ndarray], named: list[tuple[str, str]]) -> Figure:
    """Draw images with their heat maps; each is named by its predicted and its true class."""
    titles = [guess if guess == true else f"{guess}\ntrue: {true}" for guess, true in named]
    return _grid(
        pictures, titles, "where the network sees the class that it predicts: correct and wrong predictions", columns=4
    )


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two principal components [N, 2] of vectors [N, D], and their shares of the variance [2]."""
    centered = vectors.astype(np.float64) - vectors.mean(axis=0)
    left, scales, _ = np.linalg.svd(centered, full_matrices=False)
    variances = np.zeros(max(2, len(scales)))
    variances[: len(scales)] = scales**2
    points = np.zeros((len(vectors), 2))
    points[:, : len(scales[:2])] = left[:, :2] * scales[:2]
    return points, variances[:2] / max(variances.sum(), np.finfo(np.float64).tiny)


def first_kernels(params: dict[str, Any], image_shape: tuple[int, int, int]) -> np.ndarray:
    """Return the first layer's kernels [K, H, W, C]; dense kernels are reshaped to the image."""
    leaves = [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    convolutions = [leaf for leaf in leaves if leaf.ndim == 4]
    if convolutions:
        first = next((leaf for leaf in convolutions if leaf.shape[2] == image_shape[2]), convolutions[0])
        return first.transpose(3, 0, 1, 2)
    dense = next(leaf for leaf in leaves if leaf.shape[0] == math.prod(image_shape))
    return dense.T.reshape(-1, *image_shape)


def _grid(images: list[np.ndarray], titles: list[str], title: str, columns: int) -> Figure:
    rows = max(1, math.ceil(len(images) / columns))
    figure = Figure(figsize=(1.45 * columns, 1.75 * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False, subplot_kw=BARE)
    for axis, index in zip(grid.flat, range(rows * columns), strict=True):
        axis.axis("off")
        if index < len(images):
            _show(axis, images[index])
            axis.set_title(titles[index], fontsize=8)
    return figure


def _show(axis: Axes, image: np.ndarray) -> None:
    if image.shape[2] == 1:
        axis.imshow(image[:, :, 0], cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
    else:
        axis.imshow(image)
