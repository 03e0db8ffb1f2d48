"""The formats that ``scripts/export.py`` writes."""

import functools
from collections.abc import Callable
from pathlib import Path

from cnnjax.convert.safetensors_file import write_safetensors
from cnnjax.errors import UserError, counted
from cnnjax.export.model_card import license_of, model_card
from cnnjax.export.onnx_file import write_onnx
from cnnjax.export.source import ExportSource
from cnnjax.export.stablehlo import write_stablehlo
from cnnjax.export.verification import checked_file, compare_tensors, same_bits
from cnnjax.hub import model_folder
from cnnjax.system.files import remove


def _stablehlo(source: ExportSource, out: Path) -> str:
    return write_stablehlo(source.network, out)


def _onnx(source: ExportSource, out: Path) -> str:
    return write_onnx(source.network, out)


def _safetensors(source: ExportSource, out: Path) -> str:
    """Write the variables by their paths, such as params/stem/conv/kernel and batch_stats/stem/norm/mean."""
    tensors = model_folder.tensors_of(source.network)
    with checked_file(out, functools.partial(compare_tensors, tensors, "read_safetensors.py")) as temporary:
        write_safetensors(temporary, tensors)
    return f"{counted(len(tensors), 'tensor')} by path"


def _folder(source: ExportSource, out: Path) -> str:
    """Write a folder in the layout of the Hugging Face hub; `cnnjax.load_pretrained` reads it as ``folder:DIR``."""
    model_folder.write(out, source.network, model_card(source), source.origin)
    stored, tensors = model_folder.tensors_of(model_folder.read(out)), model_folder.tensors_of(source.network)
    if stored.keys() != tensors.keys() or not all(same_bits(stored[name], tensors[name]) for name in tensors):
        remove(out)
        raise UserError("the exported folder was discarded: read again, its tensors differ; please report this")
    return f"weights, config and model card; license of the weights: {license_of(source.origin)}"


TARGETS: dict[str, Callable[[ExportSource, Path], str]] = {
    "stablehlo": _stablehlo, "onnx": _onnx, "safetensors": _safetensors, "folder": _folder,
}  # fmt: skip
"""Functions that write a network and return a line that describes the file, by the name of the format."""
