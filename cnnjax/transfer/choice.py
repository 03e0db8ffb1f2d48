"""The choice of phases by the number of images, for users who do not want to choose."""

from typing import NamedTuple

from cnnjax.config import Augmentation, Phase, Schedule

FEW, MANY = 50, 500
"""Training images per class below which only the head is trained, and from which all stages are."""
HIGH, LOW, LOWEST = 3e-3, 1e-4, 1e-5
"""Learning rates of a new head, of the last stage, and of the whole network."""


class Choice(NamedTuple):
    """Phases, and why they were chosen, in one sentence."""

    phases: tuple[Phase, ...]
    reason: str


def choose_phases(images: int, classes: int, augmentation: Augmentation) -> Choice:
    """Return the phases for a number of training images. The head is trained without augmentation, on embeddings.

    The more images a class has, the more parameters they determine (Yosinski et al. 2014, section 4).
    """
    per_class = images // classes
    given = f"{images:,} training images in {classes} classes, about {per_class:,} a class"
    if per_class < FEW:
        reason = f"fewer than {FEW} would overfit the backbone, so only the head is trained"
        return Choice((_head(60),), f"{given}: {reason}")
    head = _head(20)
    if per_class < MANY:
        last = Phase(train="stages:1", epochs=5, lr=LOW, augmentation=augmentation)
        reason = f"enough for the last stage, but fewer than the {MANY} needed for the whole backbone"
        return Choice((head, last), f"{given}: {reason}")
    last = Phase(train="stages:1", epochs=3, lr=LOW, augmentation=augmentation)
    whole = Phase(train="all", epochs=3, lr=LOWEST, layer_decay=0.7, augmentation=augmentation)
    return Choice((head, last, whole), f"{given}: {MANY} or more are enough for the whole backbone at a low rate")


def _head(epochs: int) -> Phase:
    """Return the phase that trains the head, at a rate that falls to 0."""
    return Phase(train="head", epochs=epochs, lr=HIGH, schedule=Schedule(name="cosine"), augmentation=Augmentation())
