"""Python API to train and use networks. The scripts call it."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from cnnjax import data
from cnnjax.config import Data, Experiment
from cnnjax.data.division import PARTS
from cnnjax.errors import UserError
from cnnjax.models.layers import Arch
from cnnjax.runs import evaluation, launch, predictor
from cnnjax.runs.definitions import BUILT_IN, Definitions, of_run, with_parts_of
from cnnjax.runs.folder import RunFolder, recorded_data
from cnnjax.runs.predictor import Parameters, Photo, Predictor
from cnnjax.training.classification import Report


class Run:
    """A run folder with a trained network."""

    def __init__(self, path: Path, definitions: Definitions = BUILT_IN, network: Predictor | None = None):
        self.path, self.definitions = path, definitions
        self._network = network

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def network(self) -> Predictor:
        """The network with the best parameters by validation, with its classes and preprocessing."""
        if self._network is None:
            self._network = predictor.load(self.path, self.definitions)
        return self._network

    @property
    def results(self) -> dict[str, Any]:
        """Results of a finished run: loss and top-1 of each split, number of epochs, and seconds."""
        return RunFolder(self.path, self.definitions).read_results()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Metrics of each epoch."""
        return RunFolder(self.path, self.definitions).read_metrics()

    def predict(self, images: Photo | Sequence[Photo], top: int = 3) -> list[list[tuple[str, float]]]:
        """Return each image's ``top`` most likely classes with their probabilities, most likely first.

        Args:
            images: one or more image files, Pillow images, or arrays uint8 [H, W] or [H, W, C]; an array [N, H, W, C]
                is N images. Images of any size are resized for the network.
            top: number of classes, 1 or more.

        Raises:
            UserError: no image is given, or one cannot be read.

        Example:
            >>> cnnjax.load("runs/lenet_mini").predict(["shoe.png"])  # doctest: +SKIP
            [[('Sneaker', 0.93), ('Sandal', 0.05), ('Ankle boot', 0.02)]]
        """
        return self.network.predict(images, top)

    def evaluate(
        self, split: Literal["train", "validation", "test"] = "test", data: Data | None = None
    ) -> Report:  # fmt: skip
        """Return loss, top-1, top-5, calibration error, confusion matrix and the metrics of each class.

        Args:
            split: the split to evaluate on.
            data: the data to use instead of the run's own.
        """
        return evaluation.evaluate(self.network, self.dataset(data, divide=split != "test"), split)

    def dataset(self, config: Data | None = None, *, divide: bool = True) -> data.Dataset:
        """Return the run's data set, or the one in ``config``, converted to the network's input.

        Image files are split by the paths that the run recorded, even if files were added since. In another folder,
        this applies only if its images are those of the run; otherwise equal names prove nothing.
        ``divide=False`` omits the validation split.

        Raises:
            UserError: the run does not record its data, and no ``config`` is given.
        """
        own = recorded_data(self.path, self.definitions)
        config = config or own
        if config is None:
            raise UserError(f"{self.path} does not record which data it was trained on; give --data.source NAME")
        files = RunFolder(self.path, self.definitions).read_files()
        load = functools.partial(
            data.load, config, self.definitions.sources, divide=divide, like=self.network.preprocessing
        )  # fmt: skip
        dataset = load(recorded=files)
        if files is None or own is None or _place(config) == _place(own):
            return dataset
        recorded = {part: self.network.data.get(f"{part}_hash") for part in PARTS}
        differs = all(recorded.values()) and recorded != dict(dataset.part_hashes)
        return load(recorded=None) if differs else dataset


def _place(config: Data) -> tuple[str, Path | None]:
    return config.source, None if config.dir is None else Path(config.dir).resolve()


def train(
    experiment: Experiment, out: str | Path, *, name: str | None = None, resume: Literal["auto", "never"] = "auto",
    profile: range | None = None, definitions: Definitions = BUILT_IN, console: Console | None = None,
    resume_command: str = "repeat the same call", loggers: Sequence[str] = (),
) -> Run:  # fmt: skip
    """Train, or resume an interrupted run, and return the finished run.

    Args:
        experiment: the experiment to train; its network and loss may be instances of your own classes.
        out: the run folder. If it holds a finished run of the same experiment, that run is returned unchanged.
        name: the run's name; by default the name of the folder.
        resume: auto resumes the run in the folder; never refuses a folder that holds a run.
        profile: steps to trace with JAX's profiler, counted from 0 when this process starts training.
        definitions: tables of networks, losses and data sets; required if the experiment uses your own data sets.
        console: where to print progress; by default standard output. ``Console(quiet=True)`` prints nothing.
        resume_command: the command to resume with, printed after an interrupt.
        loggers: where to write the metrics besides metrics.jsonl: ``"tensorboard"``, ``"wandb"``.

    Raises:
        UserError: the config does not fit the data or the folder, a checkpoint could not be saved, or memory ran out.
        Diverged: a loss was NaN or infinite.
        Interrupted: Ctrl-C, SIGTERM or SIGUSR1; the position is saved.
        PartlyDone: the training finished, but its metrics or report could not be written.

    Example:
        >>> import cnnjax
        >>> from cnnjax.config import Data, Experiment, Train
        >>> experiment = Experiment(model=cnnjax.create("lenet"), data=Data(), train=Train(epochs=1))
        >>> run = cnnjax.train(experiment, out="runs/first")  # doctest: +SKIP
        >>> run.evaluate("test").top1  # doctest: +SKIP
        0.42
    """
    folder = Path(out)
    definitions = with_parts_of(experiment, definitions)
    request = launch.Launch(name or folder.resolve().name, experiment, folder, definitions, tuple(loggers))
    launch.run(request, console or Console(), resume, profile, resume_command=resume_command)
    return Run(folder, definitions)


def load(
    run: str | Path, *, code: str | Path | None = None, trust_code: bool = False,
    prepare: Callable[[Arch], None] = lambda arch: None, parameters: Parameters = "auto",
) -> Run:  # fmt: skip
    """Return the run in a folder, ready for prediction and evaluation.

    Args:
        run: the run folder, such as ``runs/lenet_mini``.
        code: the experiment file that defines the run's network, loss or data set. It is executed.
        trust_code: execute the copy of that file in the run folder; only for folders that you trust.
        prepare: called with the network's definition before any array is read.
        parameters: of a run with ``train.ema_decay``: auto and ema load the moving averages, raw the trained
            parameters, each from their best epoch by validation.

    Raises:
        UserError: the folder holds no run with a checkpoint, or the checkpoint is damaged.
    """
    definitions = of_run(Path(run), None if code is None else Path(code), trust_code)
    return Run(Path(run), definitions, predictor.load(Path(run), definitions, prepare, parameters))
