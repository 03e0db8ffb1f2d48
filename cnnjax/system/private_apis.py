"""Private functions of JAX and orbax that this package replaces, because no public way exists; nowhere else does so."""

import contextlib
from collections.abc import Callable
from typing import Any


def use_compilation_cache(make: Callable[[str], Any]) -> None:
    """Let JAX keep compiled programs in ``make(folder)``; raise ImportError where this JAX has no such function.

    JAX's own folder needs one more package to be bounded, reports a damaged program at every start and never mends it.
    Seen on jax 0.10.2 and 0.11.2: `jax.experimental.compilation_cache` sets the folder and takes no other store.
    """
    from jax._src import compilation_cache

    compilation_cache.get_file_cache = lambda path: (make(path), path)


def skip_tensorstore_metrics() -> None:
    """Keep orbax from collecting tensorstore's metrics around each save, for one line in its log.

    tensorstore 0.1 keeps every answer in memory, about ten KB a save, for the life of the process. Seen on orbax
    0.12.8, which has no option for it. Where orbax has no such function, nothing happens.
    """
    with contextlib.suppress(ImportError):
        from orbax.checkpoint._src.serialization import tensorstore_utils

        tensorstore_utils.get_tensorstore_raw_bytes = lambda direction=None: 0
