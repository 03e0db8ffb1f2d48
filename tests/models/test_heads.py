import jax
import numpy as np
import pytest

from cnnjax import init
from cnnjax.functional import leaves_by_path
from cnnjax.models.heads import HeadAlone, with_zero_output


@pytest.mark.parametrize(
    ("options", "output"),
    [({}, "head"), ({"head_hidden": (5,)}, "head/output"), ({"head_sigmoid": True}, "head/output")],
)
def test_only_the_layer_that_computes_the_logits_becomes_zero(options, output):
    params = init(HeadAlone(channels=6, num_classes=2, **options), jax.random.key(0)).params
    before, after = leaves_by_path(params), leaves_by_path(with_zero_output(params))
    assert before.keys() == after.keys()
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert changed == {f"{output}/kernel"}
    assert not np.any(after[f"{output}/kernel"])
