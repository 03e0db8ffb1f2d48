"""The table of all variants, docs/models.md: what each costs, and what was published for it."""

from cnnjax.complexity import complexity
from cnnjax.models import VARIANTS, create
from cnnjax.pretrained import PUBLISHED

HEADINGS = ("model", "parameters", "GMACs", "input", "published by", "published top-1, %")


def row(name: str) -> tuple[str, ...]:
    """Return the cells of one variant."""
    arch = create(name)
    counts = complexity(arch)
    published = [entry for entry in PUBLISHED if entry.variant == name]
    return (
        name,
        f"{counts.parameters:,}",
        f"{counts.multiply_adds / 1e9:.3f}" if counts.multiply_adds >= 1e6 else f"{counts.multiply_adds / 1e9:.5f}",
        "x".join(map(str, arch.image_shape)),
        ", ".join(dict.fromkeys(entry.source for entry in published)) or "-",
        ", ".join(f"{entry.top1:.2f} ({entry.weights})" for entry in published) or "-",
    )


def page() -> str:
    """Return docs/models.md."""
    aligned = ("---", "---:", "---:", "---:", "---", "---")
    lines = [HEADINGS, aligned, *(row(name) for name in VARIANTS)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"""# The models

Written by `python scripts/summary.py --all --write`. Parameters are those that are trained, running statistics of norms
apart. GMACs are thousands of millions of multiply-adds of convolutions and dense layers for one image of the input
size, which is the crop of the published weights. Top-1 is what the publisher states: on ImageNet's validation images,
of the *_cifar networks on CIFAR-10's test images. What torchvision publishes, timm does too, with other trainings
besides. `scripts/convert.py` reads what is published.

{table}
"""
