"""The record, docs/benchmarks.md: sections that a command replaces by their headings."""

import re
from pathlib import Path

from cnnjax.system.files import write_bytes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
HEAD = "# Benchmarks\n\nEach section was written by the command that it names, and nothing by hand.\n"


def replaced(page: str, heading: str, body: str) -> str:
    """Return the page with ``body`` below ``## heading``, in the place of the old section or as the last one."""
    head, sections, headings = _divided(page)
    new = f"{heading}\n\n{body.strip()}\n"
    if heading in headings:
        sections[headings.index(heading)] = new
    else:
        sections.append(new)
    return "\n## ".join([f"{head.strip() or HEAD.strip()}\n", *(f"{section.strip()}\n" for section in sections)])


def _divided(page: str) -> tuple[str, list[str], list[str]]:
    """Return what stands above the sections, the sections, and their headings."""
    head, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    return head, sections, [section.partition("\n")[0] for section in sections]


def read_section(heading: str) -> str:
    """Return a section of the record, or nothing where it has none of that heading."""
    _, sections, headings = _divided(_read(PAGE))
    return sections[headings.index(heading)] if heading in headings else ""


def write_section(heading: str, parts: list[str], page: Path | None = None) -> None:
    """Write a section of such paragraphs to the record; the other sections stay as they are."""
    page = page or PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(page, replaced(_read(page), heading, "\n\n".join(part for part in parts if part)).encode())


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.exists() else ""
