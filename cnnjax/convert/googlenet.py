"""Names of the weights of `models/googlenet.py` in torchvision's files."""

from cnnjax.convert.rules import Rule, Rules, Table, flattened, torch_conv_norm, torch_dense
from cnnjax.convert.sources import CENTER_CROP, SYMMETRIC, Source
from cnnjax.models.googlenet import AUX_SIDE, STAGES, GoogLeNet


def _inception(theirs: str, ours: str) -> Rules:
    return (
        *torch_conv_norm(f"{theirs}.branch1", f"{ours}/branch1"),
        *torch_conv_norm(f"{theirs}.branch{{b}}.{{i}}", f"{ours}/branch{{b}}/layers/{{i}}"),
    )


def _torch(arch: GoogLeNet) -> Table:
    rules: list[Rule] = []
    for number in (1, 2, 3):
        rules += torch_conv_norm(f"conv{number}", f"stem/conv{number}")
    for stage, blocks in STAGES.items():
        for index, block in enumerate(blocks):
            rules += _inception(f"inception{block}", f"{stage}/{index}")
    for aux in ("aux1", "aux2"):
        rules += torch_conv_norm(f"{aux}.conv", f"{aux}/conv")
        rules += torch_dense(f"{aux}.fc1", f"{aux}/dense1", flattened(AUX_SIDE, AUX_SIDE, arch.scaled(128)))
        rules += torch_dense(f"{aux}.fc2", f"{aux}/dense2")
    rules += torch_dense("fc", "head")
    ignored = ("*.num_batches_tracked",) if arch.aux_heads else ("*.num_batches_tracked", "aux1.*", "aux2.*")
    return Table(tuple(rules), ignored, head=("fc.*", "aux1.*", "aux2.*"))


def sources(arch: GoogLeNet) -> dict[str, Source]:
    """Return the publishers of weights for this form.

    With pretrained weights, torchvision's network maps ImageNet's mean and standard deviation to 0.5 and 0.5 before its
    first layer (``transform_input``), so its layers see values in [-1, 1].
    """
    if arch.form != "torchvision" or not arch.batch_norm or arch.stem != "imagenet":
        return {}
    return {"torchvision": Source(_torch(arch), SYMMETRIC, CENTER_CROP, writes=True)}
