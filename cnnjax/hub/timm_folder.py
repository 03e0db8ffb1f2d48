"""A repository of timm on the Hugging Face hub: the architecture in config.json, the weights in model.safetensors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cnnjax.convert import load_weights, source_of
from cnnjax.data import Preprocessing
from cnnjax.errors import UserError, printable, quoted
from cnnjax.hub.model_folder import CONFIG, WEIGHTS
from cnnjax.models import VARIANTS, create
from cnnjax.models.layers import Arch
from cnnjax.pretrained import registry
from cnnjax.runs.predictor import Description, Predictor


def read(folder: Path, config: Mapping[str, Any], prepare: Callable[[Arch], None]) -> Predictor:
    """Read a folder whose ``config`` names one of timm's architectures.

    Raises:
        UserError: the architecture or the preprocessing is not supported, or the weights do not fit.
    """
    arch, classes, preprocessing, data = describe(folder / CONFIG, config)
    prepare(arch)
    variables = load_weights(arch, "timm", folder / WEIGHTS)
    return Predictor(arch, variables, classes, preprocessing, folder, data)


def describe(path: Path, config: Mapping[str, Any]) -> Description:
    """Return the description of a network in timm's config.json, at ``path``; see `read`."""
    try:
        stated = config["pretrained_cfg"]
        size = int((stated.get("test_input_size") or stated["input_size"])[1])
        crop = float(stated.get("test_crop_pct") or stated["crop_pct"])
        num_classes = int(config["num_classes"])
        preprocessing = Preprocessing.from_dict({
            "height": size, "width": size, "resize": "short", "resize_size": int(size / crop),
            "interpolation": stated["interpolation"], "mean": stated["mean"], "std": stated["std"],
        }, "preprocessing")  # fmt: skip
        if stated.get("crop_mode", "center") != "center":
            raise UserError(f"crop_mode is {quoted(stated['crop_mode'])}; it must be 'center'")
        arch = create(_variant(config["architecture"]), num_classes=num_classes, input_size=size)
        source_of(arch, "timm")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        reason = printable(str(error))[:100]
        raise UserError(f"{path} is not a configuration of timm's ({type(error).__name__}: {reason})") from error
    return Description(arch, _class_names(stated, num_classes), preprocessing, {})


def _variant(architecture: object) -> str:
    """Return our name for one of timm's architectures."""
    renamed = {
        entry.weights.partition(".")[0]: entry.variant for entry in registry().values() if entry.source == "timm"
    }
    if isinstance(architecture, str) and architecture in renamed:
        return renamed[architecture]
    if isinstance(architecture, str) and architecture in VARIANTS:
        return architecture
    raise UserError(f"architecture is {quoted(architecture)}; it must be one of those that docs/models.md lists")


def _class_names(stated: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    names = stated.get("label_names")
    if isinstance(names, list) and len(names) == num_classes and all(isinstance(name, str) for name in names):
        return tuple(names)
    return tuple(map(str, range(num_classes)))
