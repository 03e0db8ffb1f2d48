"""Persistent cache of compiled programs, in the user's cache folder.

Set $CNNJAX_CACHE to use another folder, or CNNJAX_CACHE=0 to disable the cache. Each program is stored with its sha256;
a damaged one is discarded and compiled again. Programs are executable code, so a folder that another user owns or may
write to is not used.
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
"""Maximum bytes in the folder when a process starts to use it; a program takes from 3 KB to a few MB."""
SUFFIX = ".program"
DIGEST_BYTES = 32
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""XLA's flag for deterministic GPU programs: a fixed order of summation, and no choice of kernels by timing."""


def use_deterministic_programs() -> None:
    """Make XLA's GPU programs deterministic. Call it before JAX starts, which reads the flag only once."""
    if not are_deterministic():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()


def are_deterministic() -> bool:
    """Return whether deterministic GPU programs were requested."""
    return DETERMINISTIC in os.environ.get("XLA_FLAGS", "").split()


def keep_programs() -> None:
    """Enable JAX's compilation cache; if the folder cannot be used, print a notice and continue without it."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is not None:  # the user has configured JAX's own cache
        return
    try:
        folder = cache_folder()
        if folder is None:
            return
        make_private(folder)
        prune(folder)
        use_compilation_cache(lambda path: Store(Path(path)))
    except (OSError, RuntimeError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        print(
            f"notice: compiled programs are not cached ({reason}); use another folder with CNNJAX_CACHE=DIR",
            file=sys.stderr,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # XLA's own cache files are unbounded


def cache_folder() -> Path | None:
    """Return the folder of compiled programs, or None if the cache is disabled."""
    return user_cache("compiled")


def user_cache(name: str) -> Path | None:
    """Return the folder of that name in the user's cache folder, or None if caches are disabled."""
    chosen = os.environ.get("CNNJAX_CACHE", "")
    if chosen == "0":
        return None
    folder = Path(chosen or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (folder if chosen else folder / "cnnjax").absolute() / name


def make_private(folder: Path) -> None:
    """Create the folder if it is missing; raise OSError unless only this user may write to it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"others may write to {folder}; make it private with chmod 700")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable")


def prune(folder: Path, bound: int = BOUND, suffix: str = SUFFIX) -> None:
    """Delete the least recently used files with this suffix until the rest fit into ``bound`` bytes."""
    programs = []
    for path in folder.glob(f"*{suffix}"):
        with contextlib.suppress(FileNotFoundError):  # another process prunes too
            status = path.stat()
            programs.append((status.st_mtime_ns, status.st_size, path))
    for _, size, path in sorted(programs, reverse=True):
        bound -= size
        if bound < 0:
            path.unlink(missing_ok=True)


class Store:
    """The cache interface that JAX expects: programs by key. Several processes may share the folder."""

    def __init__(self, folder: Path):
        self._path = folder  # JAX reads this attribute
        self._processor = hashlib.sha256(processor().encode()).hexdigest()[:16]

    def get(self, key: str) -> bytes | None:
        """Return a program, or None if it is missing or damaged."""
        file = self._file(key)
        try:
            entry = file.read_bytes()
            os.utime(file)  # `prune` deletes by time of last use
        except OSError:
            return None
        digest, program = entry[:DIGEST_BYTES], entry[DIGEST_BYTES:]
        return program if hashlib.sha256(program).digest() == digest else None

    def put(self, key: str, program: bytes) -> None:
        """Store a program, replacing a damaged one; if the disk is full, the program is not stored."""
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=self._path) as temporary:
            file = Path(temporary) / "program"
            file.write_bytes(hashlib.sha256(program).digest() + program)
            file.replace(self._file(key))

    def _file(self, key: str) -> Path:
        return self._path / f"{key}-{self._processor}{SUFFIX}"


def processor() -> str:
    """Return the processor's model and features, which JAX's cache keys may omit: machines may share a home."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = text.partition("\n\n")[0].splitlines()  # the first core
        return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
    return f"{platform.machine()} {platform.processor()}"
