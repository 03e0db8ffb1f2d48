import pytest
from published import KERAS_V1, TORCH, tensors_of


@pytest.fixture
def torch_tensors():
    return tensors_of(TORCH, "torchvision")


@pytest.fixture
def keras_tensors():
    return tensors_of(KERAS_V1, "keras")
