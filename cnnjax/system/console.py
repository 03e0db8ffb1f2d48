"""Lines on the terminal."""

from rich.console import Console
from rich.text import Text

from cnnjax.errors import printable


def say(console: Console, text: str) -> None:
    """Print a line as it is: what a path or a file's text holds is no markup, and nothing that a terminal obeys."""
    console.print(Text(printable(text)), soft_wrap=True)
