"""Overrides of private JAX and orbax functions that have no public equivalent, all in this module."""

import contextlib
from collections.abc import Callable
from typing import Any


def use_compilation_cache(make: Callable[[str], Any]) -> None:
    """Make JAX store compiled programs in ``make(folder)``; raise ImportError if this JAX has no such function.

    JAX's own cache can limit its size only with another package, and it reports a damaged program at every start but
    never replaces it. Seen on jax 0.10.2 and 0.11.2: `jax.experimental.compilation_cache` sets only the folder.
    """
    from jax._src import compilation_cache

    compilation_cache.get_file_cache = lambda path: (make(path), path)


def skip_tensorstore_metrics() -> None:
    """Stop orbax from collecting tensorstore's metrics around each save for a line in its log.

    tensorstore 0.1 keeps each result in memory, about 10 KB per save, until the process exits. Seen on orbax 0.12.8,
    which has no option for it. Does nothing if orbax has no such function.
    """
    with contextlib.suppress(ImportError):
        from orbax.checkpoint._src.serialization import tensorstore_utils

        tensorstore_utils.get_tensorstore_raw_bytes = lambda direction=None: 0


def coordination_client() -> Any:
    """Return the client of JAX's coordination service, or None if this process has not joined others.

    Its key-value store passes texts between processes without using their devices; `jax.distributed` has no public
    function for it. Seen on jax 0.10.2.
    """
    from jax._src import distributed

    return distributed.global_state.client
