"""The registry of published weights states what torchvision, timm and Keras state."""

from registry import table

from cnnjax.pretrained import TABLE


def test_the_registry_is_up_to_date():
    assert TABLE.read_text() == table()
