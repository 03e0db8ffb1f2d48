"""What an experiment is: frozen dataclasses. The command line is made from them, and `config.json` holds them.

Durations are text with a unit: ``"5ep"`` is five epochs, ``"1000st"`` a thousand steps.
"""

import dataclasses
import math
import re
from typing import Generic, Literal, TypeVar

from cnnjax.errors import UserError, quoted, require
from cnnjax.fields import Fields

ModelT = TypeVar("ModelT")
MOST_STEPS = 2**31 - 1
"""Steps are counted in 32 bits."""
MOST_SECONDS = 1e9
"""Thirty years."""
MOST_EPOCHS = 100_000
"""The figures of each are kept in memory."""


def in_steps(duration: str, steps_per_epoch: int, name: str = "duration") -> int:
    """Return a duration such as ``"5ep"`` or ``"1000st"`` as a number of steps."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ep|st)", duration)
    if not match or (match[2] == "st" and "." in match[1]):
        raise UserError(
            f"{name} is {quoted(duration)}; it must be epochs such as '5ep' or whole steps such as '1000st'"
        )
    steps = float(match[1]) * (steps_per_epoch if match[2] == "ep" else 1)
    if steps > MOST_STEPS:
        raise UserError(f"{name} is {quoted(duration)}, more than the {MOST_STEPS:,} steps that a training can have")
    return round(steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Fields):
    """Which images, and how they are divided."""

    source: str = "fashion_mnist_mini"
    """The data set by name: fashion_mnist_mini (embedded), fashion_mnist, mnist, cifar10, image_folder, tfds:NAME."""
    dir: str | None = None
    """The folder (or zip) that holds the files; without it $CNNJAX_DATA and the usual places are searched."""
    validation: float = 0.1
    """The share of each class's training images set aside for validation, between 0 and 1."""
    split_seed: int = 0
    """Seed of the division into training and validation images; runs that differ in --seed alone share it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.validation < 1, "data.validation", self.validation, "between 0 and 1, both excluded")
        require(self.split_seed >= 0, "data.split_seed", self.split_seed, "0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation(Fields):
    """How training images are changed at random, each one anew in each step."""

    pad_crop: int = 0
    """Pixels of zeros put on each side before a random crop back to the size, 0 or more; 0 does not crop."""
    flip: bool = False
    """Mirror the images left to right, each with a chance of one half."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.pad_crop >= 0, "augmentation.pad_crop", self.pad_crop, "0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer(Fields):
    """How gradients change the parameters."""

    name: Literal["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"] = "adam"
    """The update rule."""
    lr: float = 1e-3
    """The base learning rate, greater than 0; the schedule multiplies it."""
    momentum: float = 0.9
    """momentum and nesterov: the share of the last update that is kept, in [0, 1)."""
    b1: float = 0.9
    """adam and adamw: decay of the first moment, in [0, 1)."""
    b2: float = 0.999
    """adam and adamw: decay of the second moment, in [0, 1)."""
    decay: float = 0.9
    """rmsprop: decay of the mean square, in [0, 1)."""
    eps: float = 1e-8
    """adam and adamw: added to the root of the mean square; rmsprop: added under the root; greater than 0."""
    weight_decay: float = 0.0
    """Decay of kernels, not of biases and norms; decoupled in adamw, added to the gradient in the others; 0 or more."""
    clip_norm: float | None = None
    """The largest global norm of the gradient, greater than 0; None does not clip."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.lr < math.inf, "optimizer.lr", self.lr, "a finite number greater than 0")
        for name in ("momentum", "b1", "b2", "decay"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name}", value, "at least 0 and less than 1")
        require(0 < self.eps < math.inf, "optimizer.eps", self.eps, "a finite number greater than 0")
        decay = self.weight_decay
        require(0 <= decay < math.inf, "optimizer.weight_decay", decay, "a finite number, 0 or more")
        clip = self.clip_norm
        require(clip is None or 0 < clip < math.inf, "optimizer.clip_norm", clip, "greater than 0, or None")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule(Fields):
    """How the learning rate changes over the training."""

    name: Literal["constant", "step", "exponential", "cosine", "warmup_cosine"] = "constant"
    """The shape of the curve."""
    boundaries: tuple[str, ...] = ()
    """step: when the rate is multiplied by `factor`, as durations in rising order: 10ep 20ep."""
    factor: float = 0.1
    """step: the factor at each boundary; exponential: the factor per `every`; in (0, 1]."""
    every: str = "1ep"
    """exponential: the duration over which the rate falls by `factor`, smoothly."""
    warmup: str = "1ep"
    """warmup_cosine: how long the rate rises from 0 to the base rate, in a line."""
    end: float = 0.0
    """cosine and warmup_cosine: the last rate as a share of the base rate, in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for boundary in self.boundaries:
            in_steps(boundary, 1, "schedule.boundaries")
        in_steps(self.every, 1, "schedule.every")
        in_steps(self.warmup, 1, "schedule.warmup")
        require(0 < self.factor <= 1, "schedule.factor", self.factor, "greater than 0 and at most 1")
        require(0 <= self.end <= 1, "schedule.end", self.end, "between 0 and 1")
        if self.name == "step" and not self.boundaries:
            raise UserError("schedule.name is 'step' without schedule.boundaries; give durations such as 10ep 20ep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Fields):
    """How long and in which portions."""

    epochs: int = 10
    """The most passes over the training images, 1 or more."""
    batch_size: int = 128
    """Images in a training step, 1 or more; each epoch leaves out what does not fill a last batch."""
    eval_batch_size: int = 500
    """Images in an evaluation step, 1 or more; no image is left out."""
    accumulate: int = 1
    """In how many equal parts a batch goes through the network, one after the other: less memory, one update by the
    mean gradient. Norms see one part at a time, and their running statistics move with each. It divides batch_size."""
    remat: tuple[str, ...] = ()
    """Stages whose activations are not kept for the gradient but computed again: less memory, more time, the same
    result but for rounding. Their names are those that `features` gives, such as stem stage1; all: every stage."""
    label_smoothing: float = 0.0
    """The share of each label spread evenly over all classes, in [0, 1)."""
    keep: int = 2
    """How many of the newest checkpoints stay, 1 or more; the best one always stays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epochs <= MOST_EPOCHS, "train.epochs", self.epochs, f"at most {MOST_EPOCHS:,}")
        for name in ("epochs", "batch_size", "eval_batch_size", "accumulate", "keep"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "1 or more")
        parts, batch_size = self.accumulate, self.batch_size
        require(batch_size % parts == 0, "train.accumulate", parts, f"a divisor of train.batch_size, {batch_size}")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, "train.label_smoothing", smoothing, "at least 0 and less than 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStopping(Fields):
    """When to stop before the last epoch. The best parameters by `metric` are kept in every case."""

    metric: Literal["loss", "top1"] = "loss"
    """The validation figure that decides: the lower loss or the higher top1 is better."""
    patience: int | None = None
    """Stop after this many epochs in a row without an improvement (0 acts as 1); None never stops early."""
    min_delta: float = 0.0
    """An improvement counts for the patience when it exceeds this, 0 or more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        patience = self.patience
        require(patience is None or patience >= 0, "early_stopping.patience", patience, "0 or more, or None")
        require(0 <= self.min_delta < math.inf, "early_stopping.min_delta", self.min_delta, "0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Fields, Generic[ModelT]):
    """All that decides the outcome of a run. Same experiment, same machine: the same parameters, bit for bit."""

    model: ModelT
    """The network: a row of the table of variants, with its options as fields."""
    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Train = Train()
    early_stopping: EarlyStopping = EarlyStopping()
    seed: int = 0
    """Seed of the initial parameters, the order of the images and all other chance in the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.seed < 2**32, "seed", self.seed, "between 0 and 4294967295")
