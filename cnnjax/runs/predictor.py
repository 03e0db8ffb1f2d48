"""A trained network loaded from its run folder, with its classes and preprocessing."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from cnnjax import checkpoint, models
from cnnjax.data import Preprocessing, Source, Split, prepare_photo, read_image
from cnnjax.errors import UserError, require
from cnnjax.functional import Variables, abstract_variables
from cnnjax.models.layers import Arch
from cnnjax.optim import make_hyperparameters
from cnnjax.runs.definitions import BUILT_IN, Definitions, hint
from cnnjax.runs.folder import read_config
from cnnjax.runs.saving import read_state
from cnnjax.training.classification import softmax, top_classes
from cnnjax.training.evaluation import predict_logits
from cnnjax.training.views import Views

BATCH_SIZE = 256

AVERAGES = "['ema']['updates']"
"""Leaf that the item ``training`` of a checkpoint has only if its variables are moving averages."""
RAW = "raw parameters"
KINDS = {None: "parameters", True: "moving averages of the parameters", False: RAW}
"""Names of the variables of a `Predictor` by its ``averaged``."""
Parameters = Literal["auto", "ema", "raw"]
"""Parameters of a run to use. auto: the moving averages if the run keeps them; ema: those; raw: the trained ones."""
Photo = str | Path | Image.Image | np.ndarray
"""An image file, a Pillow image, or an array uint8 [H, W] or [H, W, C]."""


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A network with the parameters of one checkpoint, its classes and its preprocessing.

    `cnnjax.load_pretrained` and `cnnjax.Run.network` return one.
    """

    arch: Arch
    variables: Variables
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    checkpoint: Path
    data: dict[str, str]
    """`data.Dataset.record` of the training data; empty if the network was not trained by cnnjax."""
    averaged: bool | None = None
    """Whether the variables are moving averages or raw parameters; None if the checkpoint does not hold both."""
    views: Views = 1
    """Views of each image whose mean logits are those of the image; see `cnnjax.training.views`."""

    @property
    def origin(self) -> str:
        """The checkpoint, and which of its parameters are used if it holds moving averages too."""
        return f"{KINDS[self.averaged]} of {self.checkpoint}"

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits float32 [N, classes] of images uint8 [N, H, W, C] of the network's size.

        Example:
            >>> import cnnjax
            >>> network = cnnjax.load_pretrained("lenet.fashion_mnist")
            >>> network.logits(np.zeros((2, 28, 28, 1), np.uint8)).shape
            (2, 10)
        """
        return self.logits_of(Split(images, np.zeros(len(images), np.int32)))

    def logits_of(self, source: Source) -> np.ndarray:
        """Return the logits float32 [N, classes] of all images of a source."""
        return predict_logits(self.arch, self.preprocessing, self.variables, source, BATCH_SIZE, self.views)

    def top(self, images: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
        """Return each image's k most likely classes with their probabilities."""
        self.require_classes()
        logits = self.logits(images)
        probabilities = softmax(logits)
        return [
            [(self.classes[c], float(probabilities[i, c])) for c in row]
            for i, row in enumerate(top_classes(logits, k))  # small probabilities may all be 0
        ]

    def require_classes(self) -> None:
        """Raise UserError if the network has no head."""
        if not self.classes:
            raise UserError(f"{self.checkpoint} has no classes (model.num_classes is 0); give a run with classes")

    def read(self, paths: Sequence[str]) -> np.ndarray:
        """Read image files as uint8 [N, H, W, C], resized for the network; raise UserError if one is unreadable."""
        return np.stack([read_image(path, self.preprocessing) for path in paths])

    def predict(self, images: Photo | Sequence[Photo], top: int = 3) -> list[list[tuple[str, float]]]:
        """Return each image's ``top`` most likely classes with their probabilities, most likely first.

        Args:
            images: one or more image files, Pillow images, or arrays uint8 [H, W] or [H, W, C], of any size; an array
                [N, H, W, C] is N images.
            top: number of classes, 1 or more.

        Raises:
            UserError: no image is given, or one cannot be read.

        Example:
            >>> import cnnjax
            >>> network = cnnjax.load_pretrained("lenet.fashion_mnist")
            >>> [answers] = network.predict(np.zeros((100, 80), np.uint8), top=2)  # resized to 28x28
            >>> len(answers)
            2
        """
        require(top >= 1, "top", top, "1 or more")
        one = isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4)
        photos: list[Any] = [images] if one else list(images)  # type: ignore[arg-type]
        if not photos:
            raise UserError("no image is given; give one or more files, Pillow images or arrays")
        return self.top(np.stack([prepare_photo(photo, self.preprocessing) for photo in photos]), top)


def load(
    run: Path, definitions: Definitions = BUILT_IN, prepare: Callable[[Arch], None] = lambda arch: None,
    parameters: Parameters = "auto",
) -> Predictor:  # fmt: skip
    """Load the best parameters of a run. ``prepare`` is called with its network before any array is read.

    The averages and the raw parameters of a run with ``train.ema_decay`` are each those of their own best epoch.

    Raises:
        UserError: the folder holds no run with a checkpoint, the checkpoint is damaged, or it lacks ``parameters``.
    """
    saved, described = describe_best(run, definitions, raw=parameters == "raw")
    prepare(described.arch)
    variables, averaged = chosen_variables(run, saved, described.arch, definitions, parameters)
    return Predictor(
        arch=described.arch,
        variables=variables,
        classes=described.classes,
        preprocessing=described.preprocessing,
        checkpoint=saved.path,
        data=described.data,
        averaged=averaged,
    )


def chosen_variables(
    run: Path, saved: checkpoint.Checkpoint, arch: Arch, definitions: Definitions, parameters: Parameters
) -> tuple[Variables, bool | None]:
    """Return the variables in a checkpoint, and whether they are averages; None if it does not hold both kinds.

    Raises:
        UserError: it lacks the averages that ``parameters`` asks for, or does not fit the run's config.
    """
    if AVERAGES not in saved.info["items"].get("training", {}):
        if parameters == "ema":
            raise UserError(f"{run} keeps no moving averages; train with --train.ema-decay, or leave out --parameters")
        mean = saved.info.get("averaged")  # written by cnnjax.runs.averaging
        is_raw = isinstance(mean, dict) and mean.get("parameters") == RAW
        if parameters == "raw" and not is_raw and (run / "config.json").is_file():
            experiment = read_config(run / "config.json", definitions)[1]
            if experiment.train.ema_decay is not None:  # a run with phases, or the mean of averages
                raise UserError(f"{run} holds moving averages without the raw parameters; leave out --parameters")
        return restored(saved, arch), None
    if parameters != "raw":
        return restored(saved, arch), True
    # The raw variables are part of the train state, whose other arrays the config determines.
    _, experiment = read_config(run / "config.json", definitions)
    steps_per_epoch = saved.step // max(1, saved.info.get("epoch", 1))
    return read_state(saved, experiment, make_hyperparameters(experiment, steps_per_epoch)).variables, False


def restored(saved: checkpoint.Checkpoint, arch: Arch) -> Variables:
    """Return the variables in a checkpoint of this network."""
    return Variables(**checkpoint.restore(saved, "variables", abstract_variables(arch)._asdict()))


class Description(NamedTuple):
    """A checkpoint's description of its network."""

    arch: Arch
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: dict[str, str]


def describe_best(
    run: Path, definitions: Definitions = BUILT_IN, *, raw: bool = False
) -> tuple[checkpoint.Checkpoint, Description]:
    """Return the best checkpoint of a run and its description; ``raw``: by the raw parameters, if averages are kept.

    Raises:
        UserError: the folder holds no run with a checkpoint, or the description is invalid or names unknown code.
    """
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{run} is not a run folder (it has no checkpoints/); give one such as runs/lenet_mini")
    saved = checkpoint.best(folder, raw=raw)
    try:
        return saved, describe(saved, definitions.families)
    except UserError as error:
        if (advice := hint(run)) and definitions.code is None:
            raise UserError(f"{error}{advice}") from error
        raise


def describe(saved: checkpoint.Checkpoint, families: Mapping[str, type[Arch]] = models.FAMILIES) -> Description:
    """Read a checkpoint's description of its network, as untrusted data.

    Raises:
        UserError: it is not a valid description of a cnnjax network with its classes and preprocessing.
    """
    return describe_info(saved.path, saved.info, families)


def describe_info(path: Path, info: object, families: Mapping[str, type[Arch]] = models.FAMILIES) -> Description:
    """Read the description of a network in the file or folder ``path``; see `describe`."""
    if not isinstance(info, dict) or not {"model", "classes", "preprocessing"} <= info.keys():
        raise UserError(f"{path} does not describe its network; give the folder of a cnnjax run")
    try:
        arch = models.from_dict(info["model"], families)
        preprocessing = Preprocessing.from_dict(info["preprocessing"], "preprocessing")
        classes, data = info["classes"], info.get("data", {})
        named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        require(named, "classes", classes, "a list, each item text")
        require(len(classes) == arch.num_classes, "the number of classes", len(classes), f"{arch.num_classes}")
        require(isinstance(data, dict), "data", data, "an object with names")
        for name in ("content_hash", "split_hash", *data) if data else ():
            require(isinstance(data.get(name), str), f"data.{name}", data.get(name), "text")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return Description(arch, tuple(classes), preprocessing, data)
