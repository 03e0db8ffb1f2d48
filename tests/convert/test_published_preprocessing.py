"""The publishers' preprocessing."""

import pytest

from cnnjax.convert import source_of
from cnnjax.convert.folder import published_preprocessing
from cnnjax.convert.sources import NORMALIZATIONS
from cnnjax.hub.descriptions import arch_of, preprocessing_of
from cnnjax.pretrained import registry


@pytest.mark.parametrize("source", ["keras", "cifar"])
def test_a_converted_file_gets_the_preprocessing_of_the_registry(source):
    entries = [entry for entry in registry().values() if entry.source == source]
    assert len(entries) >= 5
    for entry in entries:
        arch = arch_of(entry)
        normalization = NORMALIZATIONS[entry.normalization]
        publisher = source_of(arch, source)
        assert publisher.normalization in (normalization, None), entry.name
        assert published_preprocessing(arch, publisher, normalization) == preprocessing_of(entry), entry.name
