"""Versions of packages."""

from importlib import metadata

from cnnjax import __version__


def version(package: str) -> str:
    """Return a package's version; that of cnnjax is in its source, since a checkout need not be installed."""
    return __version__ if package == "cnnjax" else metadata.version(package)
