"""The table of all variants in docs/models.md, with their cost and published accuracy."""

from cnnjax.complexity import complexity
from cnnjax.models import VARIANTS, create
from cnnjax.pretrained import OWN, Published, registry

HEADINGS = ("model", "parameters", "GMACs", "input", "published by", "published top-1, %")


def row(name: str) -> tuple[str, ...]:
    """Return the cells of one variant."""
    arch = create(name)
    counts = complexity(arch)
    published = publications(name)
    return (
        name,
        f"{counts.parameters:,}",
        f"{counts.multiply_adds / 1e9:.3f}" if counts.multiply_adds >= 1e6 else f"{counts.multiply_adds / 1e9:.5f}",
        "x".join(map(str, arch.image_shape)),
        ", ".join(dict.fromkeys(entry.source for entry in published)) or "-",
        ", ".join(f"{entry.top1:.2f} ({entry.weights})" for entry in published if entry.top1) or "-",
    )


def publications(name: str) -> list[Published]:
    """Return the weights that others publish for a variant; timm's, which are many, only if nobody else does."""
    entries = [entry for entry in registry().values() if entry.variant == name and entry.source != OWN]
    return [entry for entry in entries if entry.source != "timm"] or entries


def page() -> str:
    """Return docs/models.md."""
    aligned = ("---", "---:", "---:", "---:", "---", "---")
    lines = [HEADINGS, aligned, *(row(name) for name in VARIANTS)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"""# Models

Written by `python scripts/summary.py --all --write`. Parameters are the trainable ones, without running statistics.
GMACs are billions of multiply-adds of convolutions and dense layers for one image of the input size, the crop size used
with the published weights. Top-1 is the publisher's figure, on the ImageNet validation images, or on the CIFAR-10 test
images for the *_cifar networks. timm publishes many of these networks too, with weights from other training recipes;
`python scripts/pretrained.py list` shows all of them. [pretrained.md](pretrained.md) describes how to load them.

{table}

## Diagrams

`python scripts/summary.py NAME --diagram OUT.svg` draws a network from a trace of its forward pass: stages with the
shape of their output, blocks, parallel branches, shortcuts, auxiliary heads; equal blocks in a row are drawn once. It
accepts the options of the model, or a run folder, and every network whose layers form a sequence, possibly with
branches that join again. This is `resnet20_cifar`:

![Diagram of ResNet-20 for CIFAR-10](images/resnet20_cifar.svg)
"""
