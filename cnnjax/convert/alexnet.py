"""Names of the weights of `models/alexnet.py` in torchvision's files."""

from cnnjax.convert.rules import Table, flattened, torch_conv, torch_dense
from cnnjax.convert.sources import CENTER_CROP, IMAGENET, Source
from cnnjax.models.alexnet import CHANNELS, LAST_SIDE, AlexNet


def _torch(channels: int) -> Table:
    return Table((
        *torch_conv("features.0", "stage1/conv"),
        *torch_conv("features.3", "stage2/conv"),
        *torch_conv("features.6", "stage3/conv"),
        *torch_conv("features.8", "stage4/conv"),
        *torch_conv("features.10", "stage5/conv"),
        *torch_dense("classifier.1", "dense1", flattened(LAST_SIDE, LAST_SIDE, channels)),
        *torch_dense("classifier.4", "dense2"),
        *torch_dense("classifier.6", "head"),
    ), head=("classifier.6.*",))  # fmt: skip


def sources(arch: AlexNet) -> dict[str, Source]:
    """Return the publishers of weights for this form."""
    if arch.form != "torchvision" or arch.stem != "imagenet" or arch.resize:
        return {}
    table = _torch(arch.scaled(CHANNELS[arch.form][-1]))
    return {"torchvision": Source(table, IMAGENET, CENTER_CROP, writes=True)}
