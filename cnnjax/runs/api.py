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
    """A run folder with a trained network; `cnnjax.train` and `cnnjax.load` return one.

    The examples use ``run``, the run of the example of `cnnjax.train`.

    Attributes:
        path: the run folder.
        definitions: the tables of networks, losses and data sets of the run.

    Example:
        >>> run
        Run('runs/first')
    """

    def __init__(self, path: Path, definitions: Definitions = BUILT_IN, network: Predictor | None = None):
        self.path, self.definitions = path, definitions
        self._network = network

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def network(self) -> Predictor:
        """The network with the best parameters by validation, with its classes and preprocessing.

        Example:
            >>> run.network.arch.family
            'lenet'
        """
        if self._network is None:
            self._network = predictor.load(self.path, self.definitions)
        return self._network

    @property
    def results(self) -> dict[str, Any]:
        """Results of a finished run: loss in nats and top-1 in [0, 1] of each split, number of epochs, and seconds.

        Example:
            >>> sorted(run.results["test"])
            ['images', 'loss', 'top1', 'top5']
        """
        return RunFolder(self.path, self.definitions).read_results()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Metrics of each epoch, a row each: losses in nats, top-1 and top-5 in [0, 1], seconds.

        Example:
            >>> [row["epoch"] for row in run.metrics]
            [1]
        """
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
            >>> images = run.dataset().test.images[:4]  # uint8 [4, 28, 28, 1]
            >>> len(run.predict(images, top=1))
            4
        """
        return self.network.predict(images, top)

    def evaluate(
        self, split: Literal["train", "validation", "test"] = "test", data: Data | None = None
    ) -> Report:  # fmt: skip
        """Return loss, top-1, top-5, calibration error, confusion matrix and the metrics of each class.

        Args:
            split: the split to evaluate on.
            data: the data to use instead of the run's own.

        Returns:
            A tuple with ``images``, ``loss`` in nats, ``top1``, ``top5`` and ``calibration_error`` in [0, 1],
            ``confusion`` int [classes, classes] (row: class, column: prediction), ``per_class`` and ``reliability``.

        Raises:
            UserError: the data does not fit the network, or the run may have trained on some of its images.

        Example:
            >>> report = run.evaluate("test")
            >>> report.images, report.confusion.shape
            (2000, (10, 10))
        """
        return evaluation.evaluate(self.network, self.dataset(data, divide=split != "test"), split)

    def dataset(self, config: Data | None = None, *, divide: bool = True) -> data.Dataset:
        """Return the run's data set, or the one in ``config``, converted to the network's input.

        Image files are split by the paths that the run recorded, even if files were added since. In another folder,
        this applies only if its images are those of the run; otherwise equal names prove nothing.
        ``divide=False`` omits the validation split.

        Raises:
            UserError: the run does not record its data, and no ``config`` is given.

        Example:
            >>> run.dataset().test
            Split(2000 images of 28x28x1)
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
        >>> few = Data(source="fashion_mnist_mini", per_class=20)
        >>> experiment = Experiment(model=cnnjax.create("lenet"), data=few, train=Train(epochs=1))
        >>> run = cnnjax.train(experiment, out="runs/first", console=Console(quiet=True))
        >>> len(run.metrics)
        1
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

    Example:
        >>> import cnnjax
        >>> cnnjax.load("runs/first").network.classes[:2]
        ('T-shirt/top', 'Trouser')
    """
    definitions = of_run(Path(run), None if code is None else Path(code), trust_code)
    return Run(Path(run), definitions, predictor.load(Path(run), definitions, prepare, parameters))
