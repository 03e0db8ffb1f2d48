"""Where the parameters of a run come from (`Experiment.init`), and the copy of them that the run folder keeps.

    run:RUN                 the best parameters of a run, or of a folder that scripts/convert.py wrote
    file:WEIGHTS            a file of published weights; file:timm:WEIGHTS if several publishers use its names
    NAME                    a published network, such as xception.keras_in1k, or folder:DIR or hf:OWNER/NAME; see
                            `cnnjax.load_pretrained`

The copy, `RUN/initial`, holds the starting parameters of the run with its preprocessing, so that a run can be resumed
even if the original has moved.
"""

from pathlib import Path
from typing import NamedTuple

from cnnjax import checkpoint, convert
from cnnjax.config import Experiment
from cnnjax.convert.folder import published_preprocessing
from cnnjax.data import Dataset, Preprocessing
from cnnjax.errors import UserError, listed, quoted
from cnnjax.functional import Tree, Variables, abstract_variables, check_variables, leaves_by_path
from cnnjax.models.heads import HEAD_FIELDS, with_zero_output, without_head
from cnnjax.models.layers import Arch
from cnnjax.partition import join, select
from cnnjax.runs import predictor
from cnnjax.runs.definitions import BUILT_IN, Definitions
from cnnjax.runs.folder import INITIAL, RunFolder
from cnnjax.runs.predictor import Parameters
from cnnjax.runs.saving import description
from cnnjax.training.initial import initial_variables
from cnnjax.training.state import drawn_variables

NO_EFFECT = (*HEAD_FIELDS, "input_size", "dtype", "dropout", "stochastic_depth", "momentum", "aux_heads")
"""Options in which a network may differ from the one its parameters come from: the head's, and those of training."""
PUBLISHED_FORMS = ("folder", "hf")
"""Forms that `cnnjax.load_pretrained` reads, besides names."""


class Origin(NamedTuple):
    """A trained network to start from."""

    arch: Arch
    variables: Variables
    preprocessing: Preprocessing
    notices: tuple[str, ...] = ()
    """What was chosen or left out while it was read, for the user."""

    def variables_of(self, arch: Arch, text: str | None) -> Variables:
        """Return the variables of ``arch``, which is this network with another head or with none.

        Raises:
            UserError: this network lacks some of them, or theirs have other shapes.
        """
        pairs = zip(self.variables, abstract_variables(arch), strict=True)
        return _checked(arch, Variables(*(select(tree, leaves_by_path(like)) for tree, like in pairs)), text)


class Start(NamedTuple):
    """Where a run starts: the origin, or the variables of an earlier start of the same run; all None: from the seed."""

    origin: Origin | None = None
    variables: Variables | None = None
    preprocessing: Preprocessing | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """Messages of the origin for the user."""
        return () if self.origin is None else self.origin.notices


FROM_SEED = Start()


def read_start(experiment: Experiment, folder: RunFolder) -> Start:
    """Return where a run starts: from the copy in its folder, if it has one, or from ``experiment.init``.

    Raises:
        UserError: the network cannot start from there.
    """
    if experiment.init is None:
        return Start()
    if (saved := checkpoint.newest_good(folder.path / INITIAL)[0]) is not None:
        described = predictor.describe(saved, folder.definitions.families)
        return Start(None, predictor.restored(saved, described.arch), described.preprocessing)
    size = experiment.model.input_size
    if experiment.data.size not in (None, size):
        raise UserError(
            f"data.size is {experiment.data.size} and the network takes {size}x{size} pixels by its own preprocessing; "
            "leave out data.size, or set model.input_size"
        )
    model = without_head(experiment.model) if experiment.phases else experiment.model
    origin = read_origin(experiment.init, model, folder.definitions)
    return Start(origin, None, resized(origin.preprocessing, size).replace(max_value=experiment.data.max_value))


def start_variables(experiment: Experiment, dataset: Dataset, start: Start, folder: RunFolder) -> Variables | None:
    """Return the variables that a run starts from, and keep a copy of those that do not come from the seed.

    None: training draws them by the seed.
    """
    if start.origin is None:
        if start.variables is None and experiment.phases:
            return initial_variables(experiment, dataset)
        return start.variables
    variables = placed(experiment, start.origin)
    info = {"epoch": 0, **description(experiment, dataset)}
    items = {"variables": variables._asdict()}
    checkpoint.save(folder.path / INITIAL, 0, items, info, require_lock=folder.require_lock)
    return variables


def read_origin(
    text: str, model: Arch, definitions: Definitions = BUILT_IN, parameters: Parameters = "auto"
) -> Origin:  # fmt: skip
    """Read the network that ``text`` names; a file takes its architecture from ``model``.

    ``parameters`` of a run may be chosen; see `predictor.load`.
    """
    kind, _, place = text.partition(":")
    if kind == "run" and place:
        return _read_run(place, definitions, parameters)
    if parameters != "auto":
        raise UserError(f"--parameters applies to runs, and {quoted(text)} is not one; leave it out")
    if kind == "file" and place:
        return _read_file(place, model)
    network = _published(text)
    return Origin(network.arch, network.variables, network.preprocessing)


def _published(text: str) -> predictor.Predictor:
    import cnnjax  # by its public name, because the hub builds on runs

    kind, colon, place = text.partition(":")
    if colon and (kind not in PUBLISHED_FORMS or not place):
        raise UserError(
            f"init is {quoted(text)}; it must be run:RUN, file:WEIGHTS, folder:DIR, hf:OWNER/NAME, or the name of a "
            "published network"
        )
    network: predictor.Predictor = cnnjax.load_pretrained(text)
    return network


def origin_arch(text: str) -> Arch | None:
    """Return the network that ``text`` names, or None: a file does not describe its network."""
    kind, _, place = text.partition(":")
    if kind == "file":
        return None
    if kind != "run":
        return _published(text).arch
    saved = checkpoint.best(_run_folder(place) / "checkpoints")
    return predictor.describe(saved).arch


def absolute(text: str) -> str:
    """Return ``text`` with an absolute path, so that it is found from any working directory."""
    kind, _, place = text.partition(":")
    if kind in ("run", "folder"):
        return f"{kind}:{Path(place).resolve()}"
    if kind == "file":
        publisher, path = _publisher(place)
        return f"file:{publisher}:{path.resolve()}" if publisher else f"file:{path.resolve()}"
    return text


def _read_run(place: str, definitions: Definitions, parameters: Parameters) -> Origin:
    network = predictor.load(_run_folder(place), definitions, parameters=parameters)
    notices = () if network.averaged is None else (f"{network.origin} are used",)
    return Origin(network.arch, network.variables, network.preprocessing, notices)


def _run_folder(place: str) -> Path:
    if not (Path(place) / "checkpoints").is_dir():
        raise UserError(f"init is 'run:{place}', which holds no run; give the folder of a run, such as run:runs/NAME")
    return Path(place)


def _read_file(place: str, model: Arch) -> Origin:
    publisher, path = _publisher(place)
    sources = convert.sources_of(model)
    if publisher is None:
        if len(sources) > 1:
            raise UserError(
                f"the names in the file fit {listed(sources)}, which prepare images differently; give the publisher, "
                f"such as file:{next(iter(sources))}:{path}"
            )
        publisher = next(iter(sources))
    source = convert.source_of(model, publisher)
    arch, variables, own, notices = convert.convert_weights(model, publisher, path)
    normalization = own or source.normalization
    if normalization is None:
        raise UserError(
            f"{publisher} does not define how images are normalized; convert the file with scripts/convert.py --mean "
            "--std, then start from run:RUN"
        )
    return Origin(arch, variables, published_preprocessing(arch, source, normalization), notices)


def _publisher(place: str) -> tuple[str | None, Path]:
    first, colon, path = place.partition(":")
    return (first, Path(path)) if colon and first in convert.PUBLISHERS else (None, Path(place))


def resized(preprocessing: Preprocessing, size: int) -> Preprocessing:
    """Return the same preprocessing for images of ``size`` pixels: a crop keeps its share of the resized image."""
    if preprocessing.height == preprocessing.width == size:
        return preprocessing
    short = preprocessing.resize_size
    scaled = None if short is None else int(short * size / min(preprocessing.height, preprocessing.width))
    return preprocessing.replace(height=size, width=size, resize_size=scaled)


def placed(experiment: Experiment, origin: Origin) -> Variables:
    """Return the run's starting variables: those of the origin, with a new head if the run has phases.

    The output layer of a new head is zero, as in BiT (Kolesnikov et al. 2020, section 3.3), so all classes start with
    the same probability. Random weights would stay in the directions that a few images do not span.
    """
    model, text = experiment.model, experiment.init
    _require_alike(model, origin.arch, text)
    if not experiment.phases:
        return _checked(model, origin.variables, text)
    kept = origin.variables_of(without_head(model), text)
    drawn = drawn_variables(experiment)
    drawn = drawn._replace(params=with_zero_output(drawn.params))
    return Variables(*(_with(fresh, tree) for fresh, tree in zip(drawn, kept, strict=True)))


def _with(fresh: Tree, kept: Tree) -> Tree:
    """Return ``fresh`` with the leaves of ``kept`` in place of its own."""
    return join(select(fresh, leaves_by_path(fresh).keys() - leaves_by_path(kept).keys()), kept)


def differences(model: Arch, origin: Arch) -> list[str]:
    """Return the options in which two networks differ so that the same parameters compute something else."""
    ours, theirs = model.to_dict(), origin.to_dict()
    return [name for name in {**ours, **theirs} if name not in NO_EFFECT and ours.get(name) != theirs.get(name)]


def _require_alike(model: Arch, origin: Arch, text: str | None) -> None:
    if different := differences(model, origin):
        ours, theirs, field = model.to_dict(), origin.to_dict(), different[0]
        raise UserError(
            f"the network of {text} has {field} {quoted(theirs.get(field))} and the experiment's has "
            f"{quoted(ours.get(field))}; they must be alike, so set model.{field}, or choose another --model"
        )


def _checked(arch: Arch, variables: Variables, text: str | None) -> Variables:
    try:
        check_variables(arch, variables)
    except UserError as error:
        raise UserError(f"{text}: {error}") from error
    return variables
