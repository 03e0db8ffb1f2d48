"""Checkpoints: orbax for the arrays, and around it what orbax does not give.

A checkpoint is a folder ``step-00000141`` with one orbax folder per item (``variables``; ``training`` where it can be
continued), ``info.json`` (what the network is and how far it has come), ``format.json``, files that its writer adds,
and ``manifest.json`` (the sha256 of every file). It is written under another name, synced and renamed, so that a folder
with this name is complete; what was damaged afterwards is noticed by the manifest before anything is restored.

``within-00000146`` is the same in the middle of an epoch, where a signal ended the run: it is gone on from, and is
neither counted nor ever the best.
"""

from cnnjax.checkpoint.arrays import restore
from cnnjax.checkpoint.folder import best, list_paths, newest_good, newest_step, prune
from cnnjax.checkpoint.verify import FORMAT, Checkpoint, Damaged, OutOfReach, open_checkpoint
from cnnjax.checkpoint.writing import save

__all__ = [
    "FORMAT",
    "Checkpoint",
    "Damaged",
    "OutOfReach",
    "best",
    "list_paths",
    "newest_good",
    "newest_step",
    "open_checkpoint",
    "prune",
    "restore",
    "save",
]
