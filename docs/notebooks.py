"""Write each part of course.md as a notebook for Jupyter and Colab.

usage: python docs/notebooks.py        writes docs/notebooks/*.ipynb

Each notebook begins with the Colab cells of the page. An indented command becomes a cell that starts with ``!``, a
block of Python a cell, and a picture is embedded, so that a notebook is a single file.
"""

import base64
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).resolve().parent
FOLDER = DOCS / "notebooks"
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
NAMES = ("1-lenet", "2-alexnet", "3-pretrained", "4-transfer")
"""Names of the notebooks, one for each part of the course."""
BLOCK = re.compile(r"^```python\n((?:.*\n)*?)```\n|((?:^    .+\n)+)", re.MULTILINE)
"""A block of Python, or an indented block of commands."""


class Part(NamedTuple):
    """A part of the course: its title, and its cells, each ``("markdown" | "code", text)``."""

    title: str
    cells: list[tuple[str, str]]


def parts(page: str) -> list[Part]:
    """Return the parts of the page; each begins with the cells that prepare Colab."""
    introduction, *texts = re.split(r"^## (?=\d)", page, flags=re.MULTILINE)
    (setup,) = [text for kind, text in cells(introduction) if kind == "code" and text.startswith("!git")]
    result = []
    for text in texts:
        title, body = text.split("\n", 1)
        first = ("markdown", f"# {title}\n\nIn Colab, run this cell first.")
        result.append(Part(title, [first, ("code", setup), *cells(body)]))
    return result


def cells(text: str) -> list[tuple[str, str]]:
    """Return the cells of a piece of the page."""
    found, end = [], 0
    for block in BLOCK.finditer(text):
        found.append(("markdown", text[end : block.start()]))
        found.append(("code", block[1] or _commands(block[2])))
        end = block.end()
    found.append(("markdown", text[end:]))
    return [(kind, body.strip()) for kind, body in found if body.strip()]


def _commands(block: str) -> str:
    lines = re.sub(r"^    ", "", block, flags=re.MULTILINE)
    return re.sub(r"^python ", "!python ", lines, flags=re.MULTILINE)


def scripts(part: Part) -> list[list[str]]:
    """Return the words of each command of a part that runs a script of the checkout, without ``python scripts/``."""
    code = "\n".join(text for kind, text in part.cells if kind == "code").replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in re.findall(r"^!python scripts/(.*)$", code, re.MULTILINE)]


def notebook(part: Part) -> dict[str, Any]:
    """Return a part in the notebook format, version 4.5."""
    return {
        "cells": [_cell(f"cell-{number}", *cell) for number, cell in enumerate(part.cells)],
        "metadata": {
            "accelerator": "GPU",
            "colab": {"provenance": []},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(name: str, kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": name, "metadata": {}}
    if kind == "code":
        return cell | {"execution_count": None, "outputs": [], "source": text.splitlines(keepends=True)}
    pictures = {Path(path).name: DOCS / path for path in re.findall(r"!\[[^\]]*\]\((.+?)\)", text)}
    for path in pictures.values():
        text = text.replace(f"({path.relative_to(DOCS)})", f"(attachment:{path.name})")
    text = re.sub(r"(?<!!)\[([^\]]+)\]\(([\w.-]+\.md)\)", r"`docs/\2`", text)
    if pictures:
        cell["attachments"] = {
            name: {TYPES[path.suffix]: base64.b64encode(path.read_bytes()).decode()} for name, path in pictures.items()
        }
    return cell | {"source": text.splitlines(keepends=True)}


def written() -> dict[str, str]:
    """Return the content of each notebook by file name."""
    course = parts((DOCS / "course.md").read_text())
    pairs = zip(NAMES, course, strict=True)
    return {f"{name}.ipynb": json.dumps(notebook(part), indent=1) + "\n" for name, part in pairs}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in written().items():
        (FOLDER / name).write_text(content)
