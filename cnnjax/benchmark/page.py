"""Read and write the sections of docs/benchmarks.md, each found by its heading."""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cnnjax.errors import PartlyDone
from cnnjax.system.files import write_bytes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
HEAD = "# Benchmarks\n\nEach section was written by the command that it names; nothing here is edited by hand.\n"


def replaced(page: str, heading: str, body: str) -> str:
    """Return the page with ``body`` under ``## heading``: the old section is replaced, a new one is appended."""
    head, sections, headings = _divided(page)
    new = f"{heading}\n\n{body.strip()}\n"
    if heading in headings:
        sections[headings.index(heading)] = new
    else:
        sections.append(new)
    return "\n## ".join([f"{head.strip() or HEAD.strip()}\n", *(f"{section.strip()}\n" for section in sections)])


def _divided(page: str) -> tuple[str, list[str], list[str]]:
    """Return the text above the sections, the sections, and their headings."""
    head, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    return head, sections, [section.partition("\n")[0] for section in sections]


def read_section(heading: str) -> str:
    """Return a section of the page, or an empty string if there is none with that heading."""
    _, sections, headings = _divided(_read(PAGE))
    return sections[headings.index(heading)] if heading in headings else ""


def write_section(heading: str, parts: list[str], page: Path | None = None) -> None:
    """Write a section, given as paragraphs; the other sections stay as they are."""
    page = page or PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(page, replaced(_read(page), heading, "\n\n".join(part for part in parts if part)).encode())


def finish(columns: Sequence[str], rows: Sequence[Sequence[str]], problems: Sequence[str]) -> None:
    """Print a table of results; raise PartlyDone with the problems, in which case no section may be written."""
    table = Table()
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if problems:
        raise PartlyDone("; ".join(problems))


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.exists() else ""
