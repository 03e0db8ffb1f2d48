"""Versions of packages."""

from importlib import metadata

from cnnjax import __version__


def version(package: str) -> str:
    """Return a package's version; cnnjax's own is read from its source, because a checkout need not be installed."""
    return __version__ if package == "cnnjax" else metadata.version(package)
