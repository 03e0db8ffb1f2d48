"""Model cards: README.md in the layout of the Hugging Face hub."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnjax.complexity import complexity
from cnnjax.errors import listed, printable, require
from cnnjax.export.source import LICENSE, ExportSource

UNKNOWN = "unknown"
"""The hub's identifier of a license that is not stated."""


def model_card(source: ExportSource) -> str:
    """Return the card of a network: license, classes, images, data, origin and score, as far as they are known."""
    network, origin = source.network, source.origin
    facts = [
        f"Classes: {listed(map(printable, network.classes)) or 'none'}.",
        f"Images: {network.preprocessing.describe()}.",
        f"Data: {_data(origin)}.",
        f"Origin: {_origin(origin)}.",
        f"License of the weights: {license_of(origin)}.",
    ]
    lines = "\n".join(f"- {fact}" for fact in facts)
    scores = "\n".join(_scores(origin))
    return f"""---
license: {license_of(origin)}
library_name: cnnjax
pipeline_tag: image-classification
---
# {printable(source.title)}

{network.arch.family} with {complexity(network.arch).parameters:,} parameters.

```python
network = cnnjax.load_pretrained("folder:DIR")  # DIR is this folder
network.predict("photo.jpg")
```

{lines}

{scores or "The score of these weights is not known."}
"""


def license_of(origin: Mapping[str, Any]) -> str:
    """Return the identifier of the license of the weights."""
    license = origin.get("license")
    return license if isinstance(license, str) and LICENSE.fullmatch(license) else UNKNOWN


def require_license(license: str) -> None:
    """Raise UserError unless this is an identifier of a license."""
    require(
        bool(LICENSE.fullmatch(license)), "--license", license, "an identifier of the hub, such as mit or cc-by-4.0"
    )


def _entry(origin: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an entry of the origin, which may come from an untrusted file."""
    entry = origin.get(name)
    return entry if isinstance(entry, Mapping) else {}


def _data(origin: Mapping[str, Any]) -> str:
    data = _entry(origin, "trained").get("data") or _entry(origin, "published").get("data")
    return printable(str(data)) if data else "not known"


def _origin(origin: Mapping[str, Any]) -> str:
    trained, published, converted = (_entry(origin, name) for name in ("trained", "published", "converted"))
    if trained:
        name = trained.get("run") or trained.get("record")
        return printable(f"trained by cnnjax, run {name}, seed {trained.get('seed')}")
    if published:
        return printable(f"published by {published.get('source')} as {published.get('name')}")
    if converted:
        return printable(f"converted from {converted.get('file')} of {converted.get('source')}")
    return "not known"


def _scores(origin: Mapping[str, Any]) -> Iterator[str]:
    """Return the rows of the table of scores, if any is known."""
    results, published = _entry(_entry(origin, "trained"), "results"), _entry(origin, "published")
    rows = [(part, figures) for part, figures in results.items() if isinstance(figures, Mapping)]
    if rows:
        yield "| split | images | top-1 | top-5 | loss |\n|---|---:|---:|---:|---:|"
        for part, figures in rows:
            share = (_number(figures.get(name), 100, " %") for name in ("top1", "top5"))
            count, loss = _number(figures.get("images"), 1, "", 0), _number(figures.get("loss"), 1, "", 4)
            yield f"| {printable(str(part))} | {count} | {' | '.join(share)} | {loss} |"
    elif published:
        top1, top5 = (_number(published.get(name), 1, " %") for name in ("top1", "top5"))
        yield f"| as published | top-1 | top-5 |\n|---|---:|---:|\n| {_data(origin)} | {top1} | {top5} |"


def _number(value: object, factor: float, unit: str, digits: int = 2) -> str:
    return f"{factor * value:,.{digits}f}{unit}" if isinstance(value, int | float) else "-"
