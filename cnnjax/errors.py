"""Errors that a user can act on, and their exit codes.

Exit codes: 0 done, 1 partly done, 2 bad input, 3 diverged.
"""

import difflib
import reprlib
from collections.abc import Iterable

LONGEST_NAME = 200
"""Maximum characters of a mistyped name that are compared with the choices."""


class CnnjaxError(Exception):
    """Base of the errors shown to a user as one sentence, without a traceback."""

    exit_code = 2


class UserError(CnnjaxError):
    """Bad input: says what was given, what is allowed and what to do."""

    exit_code = 2


class Interrupted(CnnjaxError):
    """The user stopped the run; its checkpoints stay, and the same command resumes it."""

    exit_code = 1


class PartlyDone(CnnjaxError):
    """The main work is done, but something else failed; the same command retries it."""

    exit_code = 1


class Diverged(CnnjaxError):
    """The loss turned NaN or infinite; the last good checkpoint stays."""

    exit_code = 3


def printable(text: str) -> str:
    """Return text from a file, with the control characters that a terminal would interpret replaced."""
    return "".join(c if c.isprintable() else "?" for c in text)


MOST_LISTED, LONGEST_LIST = 10, 200
"""Maximum names, and maximum characters of all of them, in a message."""


def cut(text: str, longest: int = LONGEST_LIST) -> str:
    """Return text without its middle if it has more than ``longest`` characters."""
    return text if len(text) <= longest else f"{text[: longest // 2]}...{text[-(longest // 2) :]}"


def listed(names: Iterable[str], most: int = MOST_LISTED, separator: str = ", ") -> str:
    """Return the first names, separated by commas, and how many more there are. Long names are cut in the middle."""
    names = list(names)
    first: list[str] = []
    for name in map(cut, names[:most]):
        if first and len(separator.join([*first, name])) > LONGEST_LIST:
            break
        first.append(name)
    more = f" and {len(names) - len(first):,} more" if len(names) > len(first) else ""
    return separator.join(first) + more


def counted(count: int, noun: str) -> str:
    """Return ``"1 file"``, ``"2,000 files"`` or ``"3 classes"``."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"


_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother, _short.maxlong = 4, 100, 100, 100
_short.maxtuple = _short.maxlist = _short.maxdict = MOST_LISTED
LONGEST_VALUE = 120
"""Maximum characters of a value in a message."""


def quoted(value: object) -> str:
    """Return ``repr(value)``, shortened if it is long or nested: a value may come from an untrusted file."""
    try:
        text = _short.repr(value)
        return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "a number of thousands of digits"


def near_matches(name: str, choices: Iterable[str]) -> str:
    """Return ``"did you mean 'adam'?"``, or the list of choices if no choice is similar."""
    choices = sorted(choices)
    lowered = {choice.lower(): choice for choice in choices}
    near = [
        lowered[match]
        for match in difflib.get_close_matches(name[:LONGEST_NAME].lower(), list(lowered), n=3, cutoff=0.6)
    ]
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"choose from: {listed(choices)}" if choices else "there are no choices"


def choose(what: str, name: str, choices: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``choices``; otherwise raise UserError with near matches."""
    choices = list(choices)
    if name not in choices:
        raise UserError(f"unknown {what} {quoted(name)}; {near_matches(name, choices)}")
    return name


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise UserError ``NAME is VALUE; it must be RULE`` unless ``condition`` holds."""
    if not condition:
        raise UserError(f"{name} is {quoted(value)}; it must be {rule}")
