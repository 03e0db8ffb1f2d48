"""Checkpoints: orbax stores the arrays; this package adds atomic writes, verification and pruning.

A checkpoint is a folder ``step-00000141`` with one orbax folder per item (``variables``; ``training`` if it can be
resumed), ``info.json`` (the network and the training progress), ``format.json``, any other files from the caller, and
``manifest.json`` (the sha256 of every file). It is written under a temporary name, synced and renamed, so that a folder
with this name is complete. The manifest reveals later damage before anything is restored.

``within-00000146`` is a checkpoint within an epoch, written when a signal interrupts the run. The run resumes from it,
but it does not count towards ``keep`` and is never the best.
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
