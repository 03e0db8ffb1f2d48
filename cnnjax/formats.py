"""The format version in every run folder and checkpoint: older ones are opened, a newer one is refused."""

from typing import Any

from cnnjax import __version__
from cnnjax.errors import UserError, printable, shown


class NewerFormat(UserError):
    """What is whole, and only a newer cnnjax can read."""


def written(version: int) -> dict[str, Any]:
    """Return what a file says of its format: the version, and the cnnjax that wrote it."""
    return {"format": version, "cnnjax": __version__}


def check(what: str, data: Any, known: int) -> None:
    """Raise UserError unless ``data`` is an object with a format from 1 to ``known``; of a newer one, say so."""
    if not isinstance(data, dict):
        raise UserError(f"{what} is described by {shown(data)}; it must be an object with a format")
    found = data.get("format")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{what} has format {shown(found)}; it must be 1 or more")
    if found > known:
        writer = data.get("cnnjax")
        needed = f"cnnjax {printable(writer[:40])} or newer" if isinstance(writer, str) else "a newer cnnjax"
        raise NewerFormat(
            f"{what} has format {shown(found)}, newer than {known}; it needs {needed}, and this is {__version__}"
        )
