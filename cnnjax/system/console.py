"""Lines on the terminal."""

from rich.console import Console
from rich.text import Text

from cnnjax.errors import printable


def say(console: Console, text: str) -> None:
    """Print a line literally: text from paths and files is neither markup nor terminal control codes."""
    console.print(Text(printable(text)), soft_wrap=True)
