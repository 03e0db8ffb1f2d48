"""Training and using networks from Python: what the scripts call."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from cnnjax import data
from cnnjax.config import Data, Experiment
from cnnjax.errors import UserError, require
from cnnjax.models.layers import Arch
from cnnjax.runs import evaluation, launch, predictor
from cnnjax.runs.definitions import BUILT_IN, Definitions, of_run, with_parts_of
from cnnjax.runs.folder import RunFolder, recorded_data
from cnnjax.runs.predictor import Predictor
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
        """The network with the best parameters by validation, its classes and its preprocessing."""
        if self._network is None:
            self._network = predictor.load(self.path, self.definitions)
        return self._network

    @property
    def results(self) -> dict[str, Any]:
        """The figures of a finished run: loss and top-1 of each part, epochs and seconds."""
        return RunFolder(self.path, self.definitions).read_results()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The figures of each epoch."""
        return RunFolder(self.path, self.definitions).read_metrics()

    def predict(self, photos: Sequence[str | Path], top: int = 3) -> list[list[tuple[str, float]]]:
        """Return each photo's ``top`` likeliest classes by name with their probabilities, likeliest first.

        Args:
            photos: image files of any common format and size; they are resized as the network needs.
            top: how many classes, 1 or more.

        Example:
            >>> cnnjax.load("runs/lenet_mini").predict(["shoe.png"])  # doctest: +SKIP
            [[('Sneaker', 0.93), ('Sandal', 0.05), ('Ankle boot', 0.02)]]
        """
        require(top >= 1, "top", top, "1 or more")
        if not photos:
            raise UserError("no photo is given; give one or more image files")
        return self.network.top(self.network.read([str(photo) for photo in photos]), top)

    def evaluate(
        self, split: Literal["train", "validation", "test"] = "test", data: Data | None = None
    ) -> Report:  # fmt: skip
        """Return loss, top-1, top-5, calibration error, confusion matrix and the figures of each class.

        Args:
            split: the part to evaluate on.
            data: other data than the run's own.
        """
        return evaluation.evaluate(self.network, self.dataset(data, divide=split != "test"), split)

    def dataset(self, config: Data | None = None, *, divide: bool = True) -> data.Dataset:
        """Return the run's data, or other data, as the network takes them; ``divide=False`` without a validation part.

        Images that are files are divided by the paths that the run recorded, whatever was added since.

        Raises:
            UserError: the run does not record its data, and none are given.
        """
        config = config or recorded_data(self.path, self.definitions)
        if config is None:
            raise UserError(f"{self.path} does not record which data it was trained on; give some (--data.source NAME)")
        files = RunFolder(self.path, self.definitions).read_files()
        like = self.network.preprocessing
        return data.load(config, self.definitions.sources, divide=divide, like=like, recorded=files)


def train(
    experiment: Experiment, out: str | Path, *, name: str | None = None, resume: Literal["auto", "never"] = "auto",
    profile: range | None = None, definitions: Definitions = BUILT_IN, console: Console | None = None,
    resume_command: str = "the same call",
) -> Run:  # fmt: skip
    """Train, or resume what was interrupted, and return the finished run.

    Args:
        experiment: what is trained, and how; its network and loss may be of classes of your own.
        out: the run's folder. One that holds a finished run of the same experiment is returned as it is.
        name: the run's name; without it that of the folder.
        resume: auto resumes the run in the folder; never refuses a folder that holds one.
        profile: steps of which JAX's profiler writes a trace, counted from 0 at this start.
        definitions: tables that know what the experiment is made of, where it uses data sets of your own.
        console: where progress is printed; without it standard output. ``Console(quiet=True)`` prints nothing.
        resume_command: what an interrupt says to call to resume.

    Raises:
        UserError: the config does not fit the data or the folder, a checkpoint could not be saved, or memory is short.
        Diverged: a loss was not finite.
        Interrupted: Ctrl-C, SIGTERM or SIGUSR1; the position is saved.
        PartlyDone: the training is done, and its metrics or its report could not be written.

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
    request = launch.Launch(name or folder.resolve().name, experiment, folder, definitions)
    launch.run(request, console or Console(), resume, profile, resume_command=resume_command)
    return Run(folder, definitions)


def load(
    run: str | Path, *, code: str | Path | None = None, trust_code: bool = False,
    prepare: Callable[[Arch], None] = lambda arch: None,
) -> Run:  # fmt: skip
    """Return the run in a folder, ready to predict and to evaluate.

    Args:
        run: the run's folder, such as ``runs/lenet_mini``.
        code: the experiment file that defines the run's network, loss or data set. It is run.
        trust_code: run the copy of that file that lies in the run's folder. Only for folders that you trust.
        prepare: called with the network's definition before an array is read.

    Raises:
        UserError: the folder holds no run with a checkpoint, or the checkpoint is damaged.
    """
    definitions = of_run(Path(run), None if code is None else Path(code), trust_code)
    return Run(Path(run), definitions, predictor.load(Path(run), definitions, prepare))
