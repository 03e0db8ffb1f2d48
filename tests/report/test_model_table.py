from pathlib import Path

import pytest

from cnnjax import create, list_models
from cnnjax.convert import source_of
from cnnjax.convert.sources import NORMALIZATIONS
from cnnjax.diagram import draw
from cnnjax.pretrained import OWN, registry
from cnnjax.report.model_table import row

RECORD = Path(__file__).parents[2] / "docs" / "models.md"


def recorded() -> dict[str, tuple[str, ...]]:
    rows = [line.strip("| ").split(" | ") for line in RECORD.read_text().splitlines() if line.startswith("| ")]
    return {cells[0]: tuple(cells) for cells in rows[2:]}


def test_the_page_has_a_row_for_every_model():
    assert sorted(recorded()) == list_models()


@pytest.mark.parametrize("name", ["lenet", "resnet18", "resnet20_cifar"])  # tests/test_complexity.py covers all of them
def test_the_page_is_up_to_date(name):
    assert recorded()[name] == row(name)


def test_the_page_shows_a_current_diagram():
    diagram = RECORD.with_name("images") / "resnet20_cifar.svg"
    assert f"](images/{diagram.name})" in RECORD.read_text()
    assert diagram.read_text(encoding="utf-8") == draw(create("resnet20_cifar"), "resnet20_cifar")


def test_every_published_network_can_be_converted():
    for entry in registry().values():
        if entry.source != OWN:
            assert source_of(create(entry.variant), entry.source)
            assert entry.normalization in NORMALIZATIONS
            if entry.source in ("torchvision", "keras"):  # others differ between publications
                converter = source_of(create(entry.variant), entry.source)
                assert NORMALIZATIONS[entry.normalization] == converter.normalization, entry.name
        assert entry.top1 is None or 50 < entry.top1 < (entry.top5 or 100) <= 100
    addresses = [entry.address for entry in registry().values() if entry.address and entry.source != "timm"]
    assert len(set(addresses)) == len(addresses)
