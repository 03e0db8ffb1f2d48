"""Phases of transfer learning: each becomes an experiment of its own, which freezes all that it does not train."""

from collections.abc import Callable, Sequence

from cnnjax.config import STAGES, Experiment, Phase
from cnnjax.data import Dataset
from cnnjax.errors import UserError, listed
from cnnjax.functional import HEAD, abstract_variables, leaves_by_path, parameter_groups
from cnnjax.models.layers import Arch
from cnnjax.transfer.choice import choose_phases


def phase_experiment(experiment: Experiment, phase: Phase) -> Experiment:
    """Return the experiment that trains one phase.

    Raises:
        UserError: the phase names stages that the network does not have.
    """
    optimizer = phase.optimizer or experiment.optimizer
    changes = {name: value for name in ("lr", "layer_decay") if (value := getattr(phase, name)) is not None}
    frozen = frozen_patterns(experiment.model, phase)
    return experiment.replace(
        init=None,
        phases=(),
        augmentation=phase.augmentation or experiment.augmentation,
        optimizer=optimizer.replace(**changes),
        schedule=phase.schedule or experiment.schedule,
        early_stopping=phase.early_stopping or experiment.early_stopping,
        train=experiment.train.replace(epochs=phase.epochs, freeze=(*experiment.train.freeze, *frozen)),
    )


def frozen_patterns(arch: Arch, phase: Phase) -> tuple[str, ...]:
    """Return the patterns of the parameters that a phase does not train, for `Train.freeze`."""
    groups = parameter_groups(arch)
    trained = {path for group in trained_groups(arch, phase.train) for path in groups[group]}
    if phase.norms == "frozen":
        trained -= norm_parameters(arch)
    paths = [path for group in groups.values() for path in group]
    return covering([path for path in paths if path not in trained], paths)


def trained_groups(arch: Arch, part: str) -> list[str]:
    """Return the groups that ``part`` (head, stages:N or all) names, from input to output."""
    groups = list(parameter_groups(arch))
    if HEAD not in groups:
        raise UserError(f"the network {arch.family} has no separate head to retrain; choose another")
    stages = [group for group in groups if group != HEAD]
    if part == HEAD:
        return [HEAD]
    if part == "all":
        return groups
    match = STAGES.fullmatch(part)
    assert match is not None
    if (count := int(match[1])) > len(stages):
        raise UserError(
            f"phase.train is {part!r} and the network has {len(stages)} stages ({listed(stages)}); give stages:1 to "
            f"stages:{len(stages)}"
        )
    return [*stages[-count:], HEAD]


def norm_parameters(arch: Arch) -> set[str]:
    """Return the paths of the parameters of batch norms: those beside batch statistics."""
    variables = abstract_variables(arch)
    norms = {path.rpartition("/")[0] for path in leaves_by_path(variables.batch_stats)}
    return {path for path in leaves_by_path(variables.params) if path.rpartition("/")[0] in norms}


def covering(chosen: Sequence[str], paths: Sequence[str]) -> tuple[str, ...]:
    """Return the shortest list of paths and folders that covers exactly the chosen ones of all ``paths``."""
    others = set(paths) - set(chosen)
    kept_out = {folder for path in others for folder in _folders(path)}
    return tuple(dict.fromkeys(next(f for f in [*_folders(path), path] if f not in kept_out) for path in chosen))


def _folders(path: str) -> list[str]:
    """Return the folders of a path, the outermost first: ``a`` and ``a/b`` of ``a/b/c``."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def label(phase: Phase) -> str:
    """Return the name of a phase for folders and tables, such as ``stages-2``."""
    return phase.train.replace(":", "-")


def is_open(experiment: Experiment) -> bool:
    """Return whether the data decides a part of the experiment; see `resolved`."""
    return bool(experiment.phases) and (
        experiment.model.num_classes == 0 or any(phase.train == "auto" for phase in experiment.phases)
    )


def resolved(
    experiment: Experiment, dataset: Dataset, notice: Callable[[str], None] = lambda text: None
) -> Experiment:  # fmt: skip
    """Return an experiment in which all that depends on the data is set: the number of classes, and phases left open.

    Raises:
        UserError: the data has only one class, or a phase freezes untrained layers.
    """
    phases = experiment.phases
    if not phases:
        return experiment
    if len(dataset.classes) < 2:
        raise UserError(
            f"{dataset.name} has only the class {listed(dataset.classes)}; a classifier needs two classes or more"
        )
    if experiment.model.num_classes == 0:
        experiment = experiment.replace(model=experiment.model.replace(num_classes=len(dataset.classes)))
    if any(phase.train == "auto" for phase in phases):
        if len(phases) > 1:
            raise UserError(f"one of {len(phases)} phases trains 'auto', which stands for all phases; give it alone")
        choice = choose_phases(len(dataset.train.labels), len(dataset.classes), experiment.augmentation)
        notice(choice.reason)
        experiment = experiment.replace(phases=choice.phases)
    first = experiment.phases[0].train
    if experiment.init is None and first != "all":
        raise UserError(
            f"the first phase trains {first!r} and freezes untrained layers; give trained parameters "
            "with --init, or train all"
        )
    return experiment
