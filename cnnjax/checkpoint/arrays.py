"""Write and read the arrays of a checkpoint with orbax, without its log output and without trusting its metadata."""

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
from cnnjax.parallel import current_placement, processes
from cnnjax.system.files import require_utf8
from cnnjax.system.private_apis import skip_tensorstore_metrics

QUIET_SECONDS = 0.3
"""Seconds without output after which a failed save is considered finished."""

skip_tensorstore_metrics()


def write(folder: Path, items: Mapping[str, Any]) -> None:
    """Write each pytree of arrays to a folder named after it. Exceptions of orbax propagate."""
    # Not AsyncCheckpointer: if a folder cannot be created, its threads wait ten minutes for each other.
    with ocp.Checkpointer(ocp.StandardCheckpointHandler(**_alone()), **_alone()) as checkpointer:
        for name, tree in items.items():
            saved = current_placement().saved(tree)
            checkpointer.save(folder.resolve() / name, args=ocp.args.StandardSave(saved))


def restore(checkpoint: Checkpoint, item: str, like: Any) -> Any:
    """Return an item with the structure of ``like``, a pytree of arrays or of shapes and dtypes.

    Raises:
        UserError: the checkpoint has no such item, its leaves have other names, shapes or dtypes, or its path is not
            UTF-8.
    """
    require_utf8(checkpoint.path)
    stored, wanted = checkpoint.info["items"].get(item, {}), shapes(like)
    for leaf in sorted(stored.keys() | wanted.keys()):
        if stored.get(leaf) != wanted.get(leaf):
            raise UserError(
                f"{checkpoint.path / item} does not fit the network: {leaf} is {stored.get(leaf, 'missing')}; "
                f"it must be {wanted.get(leaf, 'absent')}"
            )
    placement = current_placement()
    target = placement.abstract(like)
    try:
        with ocp.StandardCheckpointer(**_alone()) as checkpointer:
            _require_same(checkpointer.metadata(checkpoint.path.resolve() / item).item_metadata, target)
            restored = checkpointer.restore(checkpoint.path.resolve() / item, target)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # the files match the manifest, but cnnjax did not write them
        raise UserError(f"checkpoint {checkpoint.path} cannot be read: {item}: {reason(error)}") from error
    return placement.restored(restored)


def _alone() -> dict[str, Any]:
    """Return the options with which orbax does not wait for the other processes of a training on several hosts."""
    if processes.count() == 1:
        return {}
    own = jax.process_index()
    return {"multiprocessing_options": ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})}


def _require_same(stored: Any, target: Any) -> None:
    """Raise ValueError if orbax's metadata of an array differs from ``target``, or its chunks exceed the array.

    Before a chunk is read, orbax allocates as much memory as the metadata declares.
    """
    leaves = _by_name(stored.tree)
    for name, wanted in _by_name(target).items():
        leaf = leaves[name]
        chunk = leaf.storage.chunk_shape
        fits = all(part <= max(1, whole) for part, whole in zip(chunk, wanted.shape, strict=True))
        if (tuple(leaf.shape), leaf.dtype) != (wanted.shape, wanted.dtype) or not fits:
            raise ValueError(
                f"{name} is {leaf.dtype}{list(leaf.shape)} in chunks of {list(chunk)}; it must be "
                f"{wanted.dtype}{list(wanted.shape)} in chunks that are not larger"
            )


def _by_name(tree: Any) -> dict[str, Any]:
    """Return each leaf by its path, which stays the same if orbax turns tuples into lists."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def shapes(tree: Any) -> dict[str, str]:
    """Return each leaf's dtype and shape by its path in the tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


@contextlib.contextmanager
def silent_orbax() -> Iterator[None]:
    """Suppress the tracebacks that orbax prints for errors that it also raises.

    After any error in the block, pending writes to other files log further errors when they end. This waits
    for them, and leaves the loggers off for those that are garbage collected later.
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
                time.sleep(QUIET_SECONDS)
                gc.collect()  # when collected, futures log exceptions that were never retrieved
            raise
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
