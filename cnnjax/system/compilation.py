"""Compiled programs, kept for the next start in the user's cache folder.

$CNNJAX_CACHE is the folder to keep them in instead, and CNNJAX_CACHE=0 keeps none. What is read is what was written:
each program lies behind its sha256, and one that is damaged is forgotten and compiled anew. A program is code that is
run, so a folder that others own or may write to is not used.
"""

import contextlib
import hashlib
import os
import platform
import stat
import sys
import tempfile
from pathlib import Path

from cnnjax.system.private_apis import use_compilation_cache

BOUND = 512 * 2**20
"""Bytes that may lie in the folder when a process begins to use it; a program takes from 3 KB to some MB."""
SUFFIX = ".program"
DIGEST_BYTES = 32
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""XLA's flag for a GPU: nothing whose sums come in another order each time, and no choice of kernels by trials."""


def use_deterministic_programs() -> None:
    """Let XLA compute the same bits each time on a GPU too; before JAX starts, which reads this then."""
    if not are_deterministic():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()


def are_deterministic() -> bool:
    """Return whether XLA was asked for programs that are deterministic on a GPU."""
    return DETERMINISTIC in os.environ.get("XLA_FLAGS", "").split()


def keep_programs() -> None:
    """Let JAX keep what it compiles; a folder that cannot be used costs a line of notice and nothing else."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is not None:  # the user has told JAX itself where
        return
    try:
        folder = cache_folder()
        if folder is None:
            return
        make_private(folder)
        prune(folder)
        use_compilation_cache(lambda path: Store(Path(path)))
    except (OSError, RuntimeError, ImportError) as error:
        told = str(error).partition("\n")[0]
        print(
            f"notice: compiled programs are not cached ({told}); CNNJAX_CACHE=DIR keeps them elsewhere", file=sys.stderr
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # XLA's own files there would have no bound


def cache_folder() -> Path | None:
    """Return where compiled programs are kept, or None where they are not to be."""
    chosen = os.environ.get("CNNJAX_CACHE", "")
    if chosen == "0":
        return None
    place = Path(chosen or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (place if chosen else place / "cnnjax").absolute() / "compiled"


def make_private(folder: Path) -> None:
    """Make the folder where it is missing; raise OSError unless it is ours alone to write to."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"others may write to {folder}; chmod 700 makes it yours alone")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable")


def prune(folder: Path, bound: int = BOUND) -> None:
    """Forget the programs that were not used for longest, until the others fit."""
    found = []
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another process prunes too
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    for _, size, path in sorted(found, reverse=True):
        bound -= size
        if bound < 0:
            path.unlink(missing_ok=True)


class Store:
    """What JAX asks of a cache: programs by their keys. Several processes may use the folder at once."""

    def __init__(self, folder: Path):
        self._path = folder  # the name by which JAX knows it
        self._processor = hashlib.sha256(processor().encode()).hexdigest()[:16]

    def get(self, key: str) -> bytes | None:
        """Return a program, or None where there is none that is whole."""
        file = self._file(key)
        try:
            entry = file.read_bytes()
            os.utime(file)  # `prune` goes by when a program was last used
        except OSError:
            return None
        digest, program = entry[:DIGEST_BYTES], entry[DIGEST_BYTES:]
        return program if hashlib.sha256(program).digest() == digest else None

    def put(self, key: str, program: bytes) -> None:
        """Keep a program, in the place of a damaged one where there is one; a full disk only means that it is lost."""
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=self._path) as aside:
            file = Path(aside) / "program"
            file.write_bytes(hashlib.sha256(program).digest() + program)
            file.replace(self._file(key))

    def _file(self, key: str) -> Path:
        return self._path / f"{key}-{self._processor}{SUFFIX}"


def processor() -> str:
    """Return what the programs compiled here depend on, and JAX's keys may not: machines may share a home."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = text.partition("\n\n")[0].splitlines()  # the first core
        return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
    return f"{platform.machine()} {platform.processor()}"
