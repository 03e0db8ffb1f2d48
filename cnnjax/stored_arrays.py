"""A checkpoint's arrays, read by a process of its own that may take only so much memory.

What lies in a checkpoint may be a stranger's, and tensorstore takes the memory that it claims: by the size of a chunk,
by what is compressed in it, by the index of the chunks. Here that ends the other process. It runs this file, which
therefore imports nothing of ours.
"""

import json
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

MEMORY, COPIES = 2**28, 4
"""The process may take that many bytes, and so many times the largest array: as stored, decoded, and copied."""
SECONDS = 600
"""After which a file that cannot be read to its end, such as a pipe, is given up; counted anew for each array."""


def read_arrays(folder: Path, wanted: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> dict[str, np.ndarray]:
    """Return the arrays that orbax has written to ``folder``, by name; each must have its shape and dtype.

    Raises:
        ValueError: one is missing, of another shape or dtype, damaged, or takes more memory than it should.
    """
    memory = MEMORY + COPIES * max((_bytes(*kind) for kind in wanted.values()), default=0)
    arrays = {name: [list(shape), dtype.name] for name, (shape, dtype) in wanted.items()}
    with tempfile.TemporaryFile() as task, tempfile.TemporaryFile() as said:
        task.write(json.dumps({"folder": str(folder.resolve()), "memory": memory, "arrays": arrays}).encode())
        task.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=task, stdout=subprocess.PIPE, stderr=said,
            process_group=0,  # Ctrl-C is this process's to act on
        )  # fmt: skip
        with child:
            assert child.stdout
            found = {name: child.stdout.read(_bytes(*kind)) for name, kind in wanted.items()}
        if child.returncode:
            said.seek(0)
            told = said.read(1000).decode(errors="replace").strip() if child.returncode > 0 else ""
            raise ValueError(told or f"it cannot be read within {memory / 2**20:.0f} MiB of memory")
    return {name: np.frombuffer(found[name], dtype).reshape(shape) for name, (shape, dtype) in wanted.items()}


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _serve() -> None:
    """Write the bytes of the arrays asked for on standard input to standard output, one after the other."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    task = json.load(sys.stdin)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    memory = task["memory"] if most == resource.RLIM_INFINITY else min(task["memory"], most)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    try:
        for name, (shape, dtype) in task["arrays"].items():
            signal.alarm(SECONDS)
            sys.stdout.buffer.write(_read(task["folder"], name, shape, dtype))
        sys.stdout.buffer.flush()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(str(error).partition("\n")[0][:300])


def _read(folder: str, name: str, shape: list[int], dtype: str) -> Any:
    import tensorstore

    one = {"limit": 1}  # thread: each has a stack, which counts as memory
    store = tensorstore.open(
        {
            "driver": "zarr", "path": name, "kvstore": {"driver": "ocdbt", "base": f"file://{folder}/"},
            "context": {"data_copy_concurrency": one, "file_io_concurrency": one},
        },
        open=True, read=True,
    ).result()  # fmt: skip
    chunk = store.spec().to_json()["metadata"]["chunks"]
    if (list(store.shape), store.dtype.name) != (shape, dtype) or any(
        part > max(1, whole) for part, whole in zip(chunk, shape, strict=True)
    ):
        raise ValueError(
            f"{name} is {store.dtype.name}{list(store.shape)} in chunks of {chunk}; it must be {dtype}{shape} in "
            "chunks that are no larger"
        )
    return store.read(order="C").result().reshape(-1).view("u1").data


if __name__ == "__main__":
    _serve()
