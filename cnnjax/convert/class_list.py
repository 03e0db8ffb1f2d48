"""Class names given on the command line, or as a file: one name per line, or a JSON list or object."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnjax.errors import UserError, quoted
from cnnjax.system.files import read_bytes


def read_class_names(given: Sequence[str]) -> tuple[str, ...]:
    """Return the class names in the order of the outputs. Equal names are told apart by their index.

    ImageNet's own list, for example, has "crane" twice: they become "crane (134)" and "crane (517)".

    Args:
        given: the names, or one path that ends in .txt (a name per line) or .json (a list of names, an object from
            index to name, or Keras's object from index to [WordNet id, name]). A byte-order mark is skipped.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    names = tuple(given)
    if len(given) == 1 and given[0].endswith((".txt", ".json")):
        path = Path(given[0])
        text = _read(path)
        lines = (line.strip() for line in text.split("\n"))
        names = _from_json(path, text) if path.suffix == ".json" else tuple(line for line in lines if line)
        if not names:
            raise UserError(f"--classes {path} holds no class names")
    twice = {name for name in names if names.count(name) > 1}
    return tuple(f"{name} ({index})" if name in twice else name for index, name in enumerate(names))


def _read(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"--classes {path} cannot be read as text: {error}") from error


def _from_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise UserError(f"--classes {path} is not JSON: {error}") from error
    if isinstance(value, dict):
        indices = [str(index) for index in range(len(value))]
        if set(value) != set(indices):
            raise UserError(f"--classes {path} must map the indices 0 to {len(value) - 1} to names")
        value = [value[index] for index in indices]
    names = [item[-1] if isinstance(item, list) and item else item for item in value] if isinstance(value, list) else []
    if bad := next((name for name in names if not isinstance(name, str)), None):
        raise UserError(f"--classes {path} holds {quoted(bad)}, which is not a name")
    return tuple(names)
