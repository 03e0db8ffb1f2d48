"""A checkpoint's arrays, written and read by orbax, which is kept quiet, and believed only what it must be."""

import contextlib
import gc
import io
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from cnnjax.checkpoint.verify import Checkpoint, reason
from cnnjax.errors import UserError
from cnnjax.parallel import one_device
from cnnjax.system.private_apis import skip_tensorstore_metrics

MOMENT = 0.3
"""Seconds without a complaint after which a save that failed is taken to have ended."""


skip_tensorstore_metrics()


def write(folder: Path, items: Mapping[str, Any]) -> None:
    """Write each pytree of arrays into a folder of its name; raise what orbax raises."""
    # Not orbax's asynchronous one: where a folder cannot be made, that one's threads wait ten minutes for each other.
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        for name, tree in items.items():
            checkpointer.save(folder.resolve() / name, args=ocp.args.StandardSave(tree))


def restore(checkpoint: Checkpoint, item: str, like: Any) -> Any:
    """Return an item in the structure of ``like``: a pytree of arrays, or of their shapes and dtypes.

    Raises:
        UserError: the checkpoint has no such item, or its leaves have other names, shapes or dtypes.
    """
    held, wanted = checkpoint.info["items"].get(item, {}), shapes(like)
    for leaf in sorted(held.keys() | wanted.keys()):
        if held.get(leaf) != wanted.get(leaf):
            raise UserError(
                f"{checkpoint.path / item} does not fit: {leaf} is {held.get(leaf, 'missing')} there, "
                f"and {wanted.get(leaf, 'nothing of that name')} is needed"
            )
    placement = one_device()
    target = placement.abstract(like)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            _require_same(checkpointer.metadata(checkpoint.path.resolve() / item).item_metadata, target)
            restored = checkpointer.restore(checkpoint.path.resolve() / item, target)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # its files are those of its manifest, but somebody else's
        raise UserError(f"checkpoint {checkpoint.path} cannot be read: {item}: {reason(error)}") from error
    return placement.restored(restored)


def _require_same(stored: Any, target: Any) -> None:
    """Raise ValueError where orbax's own description of an array is another, or its chunks are larger than the array.

    For a chunk, as much memory is taken as it is said to need, before anything of it is read.
    """
    leaves = _by_name(stored.tree)
    for name, wanted in _by_name(target).items():
        leaf = leaves[name]
        chunk = leaf.storage.chunk_shape
        fits = all(part <= max(1, whole) for part, whole in zip(chunk, wanted.shape, strict=True))
        if (tuple(leaf.shape), leaf.dtype) != (wanted.shape, wanted.dtype) or not fits:
            raise ValueError(
                f"{name} is {leaf.dtype}{list(leaf.shape)} in chunks of {list(chunk)}; it must be "
                f"{wanted.dtype}{list(wanted.shape)} in chunks that are no larger"
            )


def _by_name(tree: Any) -> dict[str, Any]:
    """Return each leaf by the path to it, which is the same where orbax has made lists of tuples."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def shapes(tree: Any) -> dict[str, str]:
    """Return each leaf's dtype and shape by its place in the tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


@contextlib.contextmanager
def silent_orbax() -> Iterator[None]:
    """Keep what writes checkpoints from printing tracebacks of errors that it raises too.

    After one, also of a file of ours beside them, its other writes end when nobody waits for them any more, and
    complain of that: they are given a moment, and of those that are forgotten later nothing is heard either.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    output = io.StringIO()
    with contextlib.redirect_stderr(output):
        try:
            yield
        except Exception:
            length = -1
            while length != (length := len(output.getvalue())):
                time.sleep(MOMENT)
                gc.collect()  # what failed unheard says so when it is forgotten
            raise
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
