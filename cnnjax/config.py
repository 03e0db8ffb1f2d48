"""Configuration of an experiment: frozen dataclasses, from which the command line and `config.json` are generated.

Durations are text with a unit: ``"5ep"`` is five epochs, ``"1000st"`` a thousand steps. Each section checks its fields
when it is created; ``replace`` returns a changed copy. A wrong name, type or value is a UserError.

Example:
    >>> from cnnjax import create
    >>> experiment = Experiment(
    ...     model=create("resnet20_cifar"),
    ...     data=Data(source="cifar10"),
    ...     augmentation=Augmentation(pad_crop=4, flip=True),
    ...     optimizer=Optimizer(name="momentum", lr=0.1, weight_decay=1e-4),
    ...     schedule=Schedule(name="step", boundaries=("82ep", "123ep")),
    ...     train=Train(epochs=164, batch_size=128),
    ...     early_stopping=EarlyStopping(metric="top1"),
    ... )
    >>> experiment.replace(seed=1).optimizer.lr
    0.1
    >>> phases = (Phase(train="head", epochs=5), Phase(train="all"))
    >>> len(experiment.replace(init="run:runs/first", phases=phases).phases)
    2
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
"""Maximum steps, which are counted in 32 bits."""
MOST_SECONDS = 1e9
"""Maximum duration of a run: thirty years."""
MOST_EPOCHS = 100_000
"""Maximum epochs; the metrics of each are kept in memory."""


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
    """The data set and its splits."""

    source: str = "fashion_mnist_mini"
    """Name of the data set: fashion_mnist_mini (embedded), fashion_mnist, mnist, kmnist, cifar10, cifar100,
    image_folder, tfds:NAME; image_folder:PATH stands for image_folder with data.dir PATH."""
    dir: InstanceOf[str] | None = None  # pydantic's str must be UTF-8, but a folder's name need not
    """Folder or zip that contains the files; None searches $CNNJAX_DATA and the usual locations."""
    validation: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """Fraction of each class's training images held out for validation, between 0 and 1."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split into training and validation images; runs that differ only in --seed share it."""
    test: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """Fraction of each class's images held out for testing if the source has no test split, between 0 and 1."""
    size: Annotated[int, Field(ge=1)] | None = None
    """image_folder and tfds:NAME: height and width in pixels; each image's short side is resized to it and its center
    cropped. None requires images of the same size."""
    skip_damaged: bool = False
    """image_folder: skip and report damaged files instead of rejecting the folder."""
    max_value: Annotated[int, Field(ge=255, le=65535)] = 65535
    """image_folder: value that becomes white in images with more than 8 bits, such as 4095 for 12 bits."""
    classes: tuple[str, ...] = ()
    """Names of the classes to use; () uses all. Images of the other classes are left out."""
    per_class: Annotated[int, Field(ge=2)] | None = None
    """Training and validation images of each class to use, drawn by split_seed, 2 or more; None uses all."""
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
    """Random changes to training images, drawn anew in each step and applied in the order of the fields."""

    pad_crop: Annotated[int, Field(ge=0)] = 0
    """Pixels of zero padding on each side before a random crop to the original size, 0 or more; 0 does not crop."""
    crop_area: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Random resized crop: the smallest share of an image's area that a crop covers, in (0, 1], such as 0.08; its
    width / height is between 3/4 and 4/3. None does not crop."""
    flip: bool = False
    """Mirror each image left to right with probability 0.5."""
    brightness: Annotated[Number, Field(ge=0, le=10)] = 0.0
    """Color jitter b: brightness is multiplied by a factor in [max(0, 1 - b), 1 + b], b in [0, 10]; 0 keeps it."""
    contrast: Annotated[Number, Field(ge=0, le=10)] = 0.0
    """Color jitter: range of the factor of contrast, as that of brightness."""
    saturation: Annotated[Number, Field(ge=0, le=10)] = 0.0
    """Color jitter: range of the factor of saturation, as that of brightness; gray images have none."""
    hue: Annotated[Number, Field(ge=0, le=0.5)] = 0.0
    """Color jitter h: hue is shifted by up to h turns of the color circle, h in [0, 0.5]; gray images have none."""
    auto_augment: Literal["none", "randaugment", "trivialaugment"] = "none"
    """Random shears, shifts, rotations and color changes. randaugment: num_ops of them with one magnitude;
    trivialaugment: one with a random magnitude from wider ranges."""
    num_ops: Annotated[int, Field(ge=1, le=14)] = 2
    """randaugment: operations per image, 1 to 14."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """randaugment: magnitude of the operations, 0 to 30."""
    erase: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Random erasing: probability that a rectangle of an image, 2 to 33 % of its area, is replaced, in [0, 1]."""
    erase_fill: Literal["mean", "noise"] = "mean"
    """Random erasing: mean: the mean color of the preprocessing; noise: a random value per pixel and channel."""
    mixup: Annotated[Number, Field(ge=0, le=100)] = 0.0
    """Mixup: alpha of the distribution Beta(alpha, alpha) of the share of an image and its label, up to 100; the rest
    is another image of the batch. 0 is off."""
    cutmix: Annotated[Number, Field(ge=0, le=100)] = 0.0
    """CutMix: alpha, as of mixup; the share of the area that stays when a rectangle comes from another image."""
    mix_probability: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """mixup and cutmix: probability that a batch is mixed, in (0, 1]."""
    cutmix_share: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """mixup and cutmix, if both are on: share of the mixed batches that CutMix mixes, in [0, 1]."""

    @model_validator(mode="after")
    def _crops_once(self) -> Self:
        if self.pad_crop and self.crop_area is not None:
            raise ValueError(
                f"augmentation.pad_crop is {self.pad_crop} and crop_area is {self.crop_area}; give one of them"
            )
        return self


class Optimizer(Schema, at="optimizer."):
    """The update rule and its constants."""

    name: Literal[
        "sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "lamb", "lars", "lion", "muon"
    ] = "adam"  # fmt: skip
    """The update rule."""
    lr: Annotated[Number, Field(gt=0)] = 1e-3
    """Base learning rate, greater than 0; the schedule multiplies it."""
    base_batch: Annotated[int, Field(ge=1)] | None = None
    """Linear scaling: batch size that `lr` is meant for, 1 or more; the base learning rate becomes
    lr * train.batch_size / base_batch. None does not scale it."""
    momentum: Share = 0.9
    """momentum, nesterov, lars and muon (published with 0.95): momentum coefficient, in [0, 1)."""
    b1: Share = 0.9
    """adam, adamw, lamb, lion and the adamw part of muon: decay of the first moment, in [0, 1)."""
    b2: Share = 0.999
    """adam, adamw, lamb and the adamw part of muon: decay of the second moment; lion (published with 0.99): decay of
    its only moment; in [0, 1)."""
    decay: Share = 0.9
    """rmsprop: decay of the mean square, in [0, 1)."""
    eps: Annotated[Number, Field(gt=0)] = 1e-8
    """Constant added to the root of the mean square (adam, adamw, lamb), under the root (rmsprop), to the norm of the
    update (lars) or of the momentum (muon), greater than 0."""
    trust: Annotated[Number, Field(gt=0)] = 1e-3
    """lars: trust coefficient, greater than 0."""
    adam_lr: Annotated[Number, Field(gt=0)] = 3e-4
    """muon: base learning rate of the head, biases and norms, which adamw updates, greater than 0; the schedule and
    base_batch act on it as on `lr`."""
    weight_decay: Annotated[Number, Field(ge=0)] = 0.0
    """Weight decay of kernels, not biases and norms: decoupled in adamw, lion and muon, added to the update before
    lamb's trust ratio, else added to the gradient; 0 or more."""
    clip_norm: Annotated[Number, Field(gt=0)] | None = None
    """Maximum global norm of the gradient, greater than 0; None does not clip."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Learning rate of a stage as a share of that of the stage above it, in (0, 1]; the head has the full rate. None
    trains all stages at one rate."""


class Schedule(Schema, at="schedule."):
    """The learning rate over the course of training."""

    name: Literal[
        "constant", "step", "exponential", "cosine", "warmup_cosine", "one_cycle", "one_cycle_linear", "polynomial",
        "plateau",
    ] = "constant"  # fmt: skip
    """The shape of the curve."""
    boundaries: tuple[Duration, ...] = ()
    """step: durations, in increasing order, after which the rate is multiplied by `factor`: 10ep 20ep."""
    factor: Annotated[Number, Field(gt=0, le=1)] = 0.1
    """step: factor at each boundary; exponential: factor per `every`; plateau: factor of each reduction; in (0, 1]."""
    every: Duration = "1ep"
    """exponential: duration over which the rate falls smoothly by `factor`."""
    warmup: Duration = "1ep"
    """warmup_cosine: duration over which the rate rises linearly from 0 to the base rate."""
    end: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """cosine, warmup_cosine, one_cycle, one_cycle_linear and polynomial: final rate as a share of the base rate;
    plateau: minimum rate as a share of the base rate; in [0, 1]."""
    start: Annotated[Number, Field(ge=0, le=1)] = 0.04
    """one_cycle and one_cycle_linear: first rate as a share of the base rate, in [0, 1]."""
    peak: Annotated[Number, Field(gt=0, lt=1)] = 0.3
    """one_cycle and one_cycle_linear: share of the steps over which the rate rises to the base rate, between 0 and
    1."""
    power: Annotated[Number, Field(gt=0)] = 1.0
    """polynomial: power of the remaining share of the steps, greater than 0; 1 falls linearly."""
    metric: Literal["loss", "top1"] = "loss"
    """plateau: validation metric that decides: lower loss or higher top1 is better."""
    patience: Annotated[int, Field(ge=1)] = 5
    """plateau: reduce the rate after this many consecutive epochs without improvement, 1 or more."""
    min_delta: Annotated[Number, Field(ge=0)] = 0.0
    """plateau: improvement that must be exceeded to reset the patience, 0 or more."""
    cooldown: Annotated[int, Field(ge=0)] = 0
    """plateau: epochs after a reduction that do not count as epochs without improvement, 0 or more."""

    @model_validator(mode="after")
    def _steps_have_boundaries(self) -> Self:
        if self.name == "step" and not self.boundaries:
            raise ValueError("schedule.name is 'step' without schedule.boundaries; give durations such as 10ep 20ep")
        return self


class Train(Schema, at="train."):
    """Length, batches and averaging of the training."""

    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)] = 10
    """Maximum passes over the training images, 1 or more."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Images per training step, 1 or more; an incomplete last batch of an epoch is dropped."""
    eval_batch_size: Annotated[int, Field(ge=1)] = 500
    """Images per evaluation step, 1 or more; no image is dropped."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Number of equal parts in which a batch passes through the network: less memory, one update with the mean
    gradient. Norms see one part at a time, and each part updates their statistics. Must divide batch_size."""
    remat: tuple[str, ...] = ()
    """Stages whose activations are recomputed in the backward pass instead of stored: less memory, more time, the same
    result up to rounding. Their names are those of `features`, such as stem stage1; all: every stage."""
    label_smoothing: Share = 0.0
    """Label smoothing: fraction of each label's probability spread evenly over all classes, in [0, 1)."""
    ema_decay: Share | None = None
    """Decay of exponential moving averages of parameters and statistics, in [0, 1), growing as
    (1 + n) / (10 + n) over the first steps n. Averages and raw parameters are evaluated and the best of each kept; the
    averages decide early stopping and are used by default (see --parameters). None keeps no averages."""
    views: Literal[1, 2, 6] = 1
    """Views of each validation and test image whose mean logits are evaluated too, after training. 2: the image and its
    mirror image; 6: also both shifted by a pixel to the lower right and to the upper left. 1: no such evaluation."""
    freeze: tuple[str, ...] = ()
    """Parameters that are not trained: patterns of their paths, such as conv1/* or stage1."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """Uneven classes. weights: each image's loss is weighted by the inverse of its class size; sampling: an epoch shows
    each class equally often, so it repeats images of small classes and leaves out some of large ones."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Number of newest checkpoints to keep, 1 or more; the best one is always kept."""

    @field_validator("accumulate")
    @classmethod
    def _divides_the_batch(cls, accumulate: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size", 0)
        if batch_size % accumulate:
            raise ValueError(f"a divisor of train.batch_size, {batch_size}")
        return accumulate


class EarlyStopping(Schema, at="early_stopping."):
    """When to stop before the last epoch. The best parameters by `metric` are always kept."""

    metric: Literal["loss", "top1", "last"] = "loss"
    """What decides which epoch is the best: the lowest validation loss, the highest validation top1, or none of them:
    the last epoch is the best. With few validation images the metrics choose by chance."""
    patience: Annotated[int, Field(ge=0)] | None = None
    """Stop after this many consecutive epochs without improvement (0 acts as 1); None never stops early."""
    min_delta: Annotated[Number, Field(ge=0)] = 0.0
    """Improvement that must be exceeded to reset the patience, 0 or more."""

    @field_validator("patience")
    @classmethod
    def _has_a_metric(cls, patience: int | None, info: ValidationInfo) -> int | None:
        if patience is not None and info.data.get("metric") == "last":
            raise ValueError("None with early_stopping.metric last, which never stops early")
        return patience


STAGES = re.compile(r"stages:([1-9]\d{0,3})")


class Phase(Schema, at="phase."):
    """One part of transfer learning: what is trained, for how long, and with which optimizer. The rest is frozen.

    A phase starts from the best parameters of the phase before it. Sections that are None come from the experiment.
    """

    train: str = "head"
    """head; stages:N for the last N stages and the head; all; auto for phases chosen by the number of images."""
    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)] = 5
    """Maximum passes over the training images, 1 or more."""
    lr: Annotated[Number, Field(gt=0)] | None = None
    """Base learning rate, greater than 0; None: that of the optimizer."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Learning rate of a stage as a share of that of the stage above it; None: that of the optimizer."""
    norms: Literal["frozen", "train"] = "frozen"
    """Batch norms of trained stages. frozen: their parameters and statistics do not change, and they normalize by the
    statistics; train: they are trained like every layer, and normalize by the batch."""
    embeddings: bool = True
    """head: compute the embeddings of the frozen backbone once and train on them, if nothing is augmented."""
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None
    early_stopping: EarlyStopping | None = None
    augmentation: Augmentation | None = None

    @field_validator("train")
    @classmethod
    def _names_a_part(cls, train: str) -> str:
        if train not in ("head", "all", "auto") and not STAGES.fullmatch(train):
            raise ValueError("head, stages:N such as stages:2, all or auto")
        return train


def _cross_entropy() -> Any:
    from cnnjax.losses import CrossEntropy  # imported here, so that a config does not need JAX

    return CrossEntropy()


class Experiment(Schema, Generic[ModelT, LossT]):
    """Everything that determines a run: on the same machine, its parameters reproduce bit for bit."""

    model: ModelT
    """The network: a variant, with its options as fields."""
    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    loss: LossT = Field(default_factory=_cross_entropy)
    """The loss to minimize; see `cnnjax.losses`."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Train = Train()
    early_stopping: EarlyStopping = EarlyStopping()
    init: InstanceOf[str] | None = None
    """Where the parameters come from: run:RUN, file:WEIGHTS, or the name of published weights. With phases the head is
    new and its number of classes may differ; 0 classes means those of the data. None initializes all from the seed."""
    continue_from: InstanceOf[str] | None = None
    """Run folder whose last state this run starts from: parameters, optimizer, counters and metrics. Its network, data,
    optimizer.name and batch size must be those of this run. None starts at step 0."""
    phases: tuple[Phase, ...] = ()
    """Phases of transfer learning, in order. () trains once, with optimizer, schedule and train."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of the initial parameters, the order of the images and all other randomness of the training."""

    @field_validator("model", "loss")
    @classmethod
    def _is_a_definition(cls, part: Any) -> Any:
        if not isinstance(part, Schema):
            raise ValueError("a definition, such as create('lenet') or CrossEntropy()")
        return part


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested data by dotted name: ``{"optimizer.lr": 0.1, "phases.0.train": "head"}``."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat
