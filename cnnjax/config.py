"""What an experiment is: frozen dataclasses. The command line is made from them, and `config.json` holds them.

Durations are text with a unit: ``"5ep"`` is five epochs, ``"1000st"`` a thousand steps.
"""

import re
from typing import Annotated, Any, Generic, Literal, Self

from pydantic import AfterValidator, Field, InstanceOf, ValidationInfo, field_validator, model_validator
from typing_extensions import TypeVar

from cnnjax.errors import UserError, quoted
from cnnjax.schema import Number, Schema

ModelT = TypeVar("ModelT")
LossT = TypeVar("LossT", default=Any)
MOST_STEPS = 2**31 - 1
"""Steps are counted in 32 bits."""
MOST_SECONDS = 1e9
"""Thirty years."""
MOST_EPOCHS = 100_000
"""The figures of each are kept in memory."""


def in_steps(duration: str, steps_per_epoch: int, name: str = "duration") -> int:
    """Return a duration such as ``"5ep"`` or ``"1000st"`` as a number of steps."""
    try:
        return _in_steps(duration, steps_per_epoch)
    except ValueError as rule:
        raise UserError(f"{name} is {quoted(duration)}; it must be {rule}") from None


def _in_steps(duration: str, steps_per_epoch: int) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ep|st)", duration)
    if not match or (match[2] == "st" and "." in match[1]):
        raise ValueError("epochs such as '5ep' or whole steps such as '1000st'")
    steps = float(match[1]) * (steps_per_epoch if match[2] == "ep" else 1)
    if steps > MOST_STEPS:
        raise ValueError(f"at most {MOST_STEPS:,} steps")
    return round(steps)


def _checked(duration: str) -> str:
    _in_steps(duration, 1)
    return duration


Duration = Annotated[str, AfterValidator(_checked)]
"""Epochs such as ``"5ep"`` or steps such as ``"1000st"``."""
Share = Annotated[Number, Field(ge=0, lt=1)]
"""A number in [0, 1)."""


class Data(Schema, at="data."):
    """Which images, and how they are divided."""

    source: str = "fashion_mnist_mini"
    """The data set by name: fashion_mnist_mini (embedded), fashion_mnist, mnist, kmnist, cifar10, cifar100,
    image_folder, tfds:NAME. image_folder:PATH stands for image_folder with data.dir PATH."""
    dir: InstanceOf[str] | None = None  # as pydantic's str it would have to be UTF-8, and a folder's name need not be
    """The folder (or zip) that holds the files; without it $CNNJAX_DATA and the usual places are searched."""
    validation: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """The share of each class's training images set aside for validation, between 0 and 1."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the division into training and validation images; runs that differ in --seed alone share it."""
    test: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """The share of each class's images set aside as test images where the source has no test part."""
    size: Annotated[int, Field(ge=1)] | None = None
    """image_folder: height and width in pixels. The short side of each image is resized to it and the center cropped;
    None requires images of one size."""
    skip_damaged: bool = False
    """image_folder: leave damaged files out and report them, instead of refusing the folder."""
    max_value: Annotated[int, Field(ge=255, le=65535)] = 65535
    """image_folder: value that becomes white in images with more than 8 bits, such as 4095 for 12 bits."""
    stream: Literal["auto", "always", "never"] = "auto"
    """image_folder: decode the photos during training instead of before it; auto: if they need more than 2 GiB."""

    @model_validator(mode="after")
    def _split_shorthand(self) -> Self:
        source, _, path = self.source.partition(":")
        if source == "image_folder" and path:
            if self.dir is not None:
                raise ValueError(f"data.source is {self.source!r} and data.dir is {self.dir!r}; give one folder")
            object.__setattr__(self, "source", source)  # as pydantic's validators of frozen dataclasses do
            object.__setattr__(self, "dir", path)
        return self


class Augmentation(Schema, at="augmentation."):
    """How training images are changed at random, each one anew in each step."""

    pad_crop: Annotated[int, Field(ge=0)] = 0
    """Pixels of zeros put on each side before a random crop back to the size, 0 or more; 0 does not crop."""
    crop_area: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Random resized crop: the smallest share of an image's area that a crop covers, in (0, 1], such as 0.08; its
    width / height is between 3/4 and 4/3. None does not crop."""
    flip: bool = False
    """Mirror the images left to right, each with a chance of one half."""

    @model_validator(mode="after")
    def _crops_once(self) -> Self:
        if self.pad_crop and self.crop_area is not None:
            raise ValueError(
                f"augmentation.pad_crop is {self.pad_crop} and crop_area is {self.crop_area}; give one of them"
            )
        return self


class Optimizer(Schema, at="optimizer."):
    """How gradients change the parameters."""

    name: Literal["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"] = "adam"
    """The update rule."""
    lr: Annotated[Number, Field(gt=0)] = 1e-3
    """The base learning rate, greater than 0; the schedule multiplies it."""
    momentum: Share = 0.9
    """momentum and nesterov: the share of the last update that is kept, in [0, 1)."""
    b1: Share = 0.9
    """adam and adamw: decay of the first moment, in [0, 1)."""
    b2: Share = 0.999
    """adam and adamw: decay of the second moment, in [0, 1)."""
    decay: Share = 0.9
    """rmsprop: decay of the mean square, in [0, 1)."""
    eps: Annotated[Number, Field(gt=0)] = 1e-8
    """adam and adamw: added to the root of the mean square; rmsprop: added under the root; greater than 0."""
    weight_decay: Annotated[Number, Field(ge=0)] = 0.0
    """Decay of kernels, not of biases and norms; decoupled in adamw, added to the gradient in the others; 0 or more."""
    clip_norm: Annotated[Number, Field(gt=0)] | None = None
    """The largest global norm of the gradient, greater than 0; None does not clip."""


class Schedule(Schema, at="schedule."):
    """How the learning rate changes over the training."""

    name: Literal["constant", "step", "exponential", "cosine", "warmup_cosine"] = "constant"
    """The shape of the curve."""
    boundaries: tuple[Duration, ...] = ()
    """step: when the rate is multiplied by `factor`, as durations in rising order: 10ep 20ep."""
    factor: Annotated[Number, Field(gt=0, le=1)] = 0.1
    """step: the factor at each boundary; exponential: the factor per `every`; in (0, 1]."""
    every: Duration = "1ep"
    """exponential: the duration over which the rate falls by `factor`, smoothly."""
    warmup: Duration = "1ep"
    """warmup_cosine: how long the rate rises from 0 to the base rate, in a line."""
    end: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """cosine and warmup_cosine: the last rate as a share of the base rate, in [0, 1]."""

    @model_validator(mode="after")
    def _steps_have_boundaries(self) -> Self:
        if self.name == "step" and not self.boundaries:
            raise ValueError("schedule.name is 'step' without schedule.boundaries; give durations such as 10ep 20ep")
        return self


class Train(Schema, at="train."):
    """How long and in which portions."""

    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)] = 10
    """The most passes over the training images, 1 or more."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Images in a training step, 1 or more; each epoch leaves out what does not fill a last batch."""
    eval_batch_size: Annotated[int, Field(ge=1)] = 500
    """Images in an evaluation step, 1 or more; no image is left out."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """In how many equal parts a batch goes through the network, one after the other: less memory, one update by the
    mean gradient. Norms see one part at a time, and their running statistics move with each. It divides batch_size."""
    remat: tuple[str, ...] = ()
    """Stages whose activations are not kept for the gradient but computed again: less memory, more time, the same
    result but for rounding. Their names are those that `features` gives, such as stem stage1; all: every stage."""
    label_smoothing: Share = 0.0
    """The share of each label spread evenly over all classes, in [0, 1)."""
    ema_decay: Share | None = None
    """Keep exponential moving averages of parameters and statistics with this decay, in [0, 1), growing from 0.1 over
    the first steps; they are then what is evaluated, saved as the best, and used to predict. None keeps none."""
    freeze: tuple[str, ...] = ()
    """Parameters that training leaves as they are: patterns of their paths, such as conv1/* or stage1."""
    keep: Annotated[int, Field(ge=1)] = 2
    """How many of the newest checkpoints stay, 1 or more; the best one always stays."""

    @field_validator("accumulate")
    @classmethod
    def _divides_the_batch(cls, accumulate: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size", 0)
        if batch_size % accumulate:
            raise ValueError(f"a divisor of train.batch_size, {batch_size}")
        return accumulate


class EarlyStopping(Schema, at="early_stopping."):
    """When to stop before the last epoch. The best parameters by `metric` are kept in every case."""

    metric: Literal["loss", "top1"] = "loss"
    """The validation figure that decides: the lower loss or the higher top1 is better."""
    patience: Annotated[int, Field(ge=0)] | None = None
    """Stop after this many epochs in a row without an improvement (0 acts as 1); None never stops early."""
    min_delta: Annotated[Number, Field(ge=0)] = 0.0
    """An improvement counts for the patience when it exceeds this, 0 or more."""


def _cross_entropy() -> Any:
    from cnnjax.losses import CrossEntropy  # here, so that a config needs no JAX

    return CrossEntropy()


class Experiment(Schema, Generic[ModelT, LossT]):
    """All that decides the outcome of a run. Same experiment, same machine: the same parameters, bit for bit."""

    model: ModelT
    """The network: a row of the table of variants, with its options as fields."""
    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    loss: LossT = Field(default_factory=_cross_entropy)
    """What is minimised; see `cnnjax.losses`."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Train = Train()
    early_stopping: EarlyStopping = EarlyStopping()
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of the initial parameters, the order of the images and all other chance in the training."""

    @field_validator("model", "loss")
    @classmethod
    def _is_a_definition(cls, part: Any) -> Any:
        if not isinstance(part, Schema):
            raise ValueError("a definition, such as create('lenet') or CrossEntropy()")
        return part


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested data by dotted names: ``{"optimizer.lr": 0.1}``."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat
