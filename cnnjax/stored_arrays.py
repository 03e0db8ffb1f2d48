"""A checkpoint's arrays, read by a process of its own that may take only so much memory.

What lies in a checkpoint may be a stranger's, and tensorstore takes the memory that it claims: by the size of a chunk,
by what is compressed in it, by the index of the chunks. Here that ends the other process. It runs this file, which
therefore imports nothing of ours. What it takes is looked at, and not limited by the system: a limit on addresses would
count the stacks of threads, of which there are more where there are more cores.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

MEMORY, COPIES = 2**28, 4
"""The process may take that many bytes, and so many times the largest array: as stored, decoded, and copied."""
SECONDS = 600
"""After which a file that cannot be read to its end, such as a pipe, is given up; counted anew for each array."""
TOO_MUCH = 99
"""The exit code of a process that took more."""


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
        if child.returncode == TOO_MUCH:
            raise ValueError(f"it cannot be read within {memory / 2**20:.0f} MiB of memory")
        if child.returncode:
            said.seek(0)
            told = said.read(300).decode(errors="replace").partition("\n")[0]
            raise ValueError(told or f"what read it ended with code {child.returncode}")
    return {name: np.frombuffer(found[name], dtype).reshape(shape) for name, (shape, dtype) in wanted.items()}


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _serve() -> None:
    """Write the bytes of the arrays asked for on standard input to standard output, one after the other."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    task = json.load(sys.stdin)
    threading.Thread(target=_watch, args=[task["memory"]], daemon=True).start()
    try:
        for name, (shape, dtype) in task["arrays"].items():
            signal.alarm(SECONDS)
            sys.stdout.buffer.write(_read(task["folder"], name, shape, dtype))
        sys.stdout.buffer.flush()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(str(error).partition("\n")[0][:300])


def _watch(memory: int) -> None:
    """End this process once it takes more than that; on a system without /proc nothing does."""
    with contextlib.suppress(OSError):
        statm = os.open("/proc/self/statm", os.O_RDONLY)
        while int(os.pread(statm, 100, 0).split()[1]) * resource.getpagesize() <= memory:
            time.sleep(0.003)
        os._exit(TOO_MUCH)


def _read(folder: str, name: str, shape: list[int], dtype: str) -> Any:
    import tensorstore

    kvstore = {"driver": "ocdbt", "base": f"file://{folder}/"}
    store = tensorstore.open({"driver": "zarr", "path": name, "kvstore": kvstore}, open=True, read=True).result()
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
