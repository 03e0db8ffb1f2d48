"""Large arrays in huge pages that stay with the process: on Linux a CPU otherwise spends a fifth of a step on memory.

XLA takes the memory for each step from the C library and gives it back after, and the C library gives it back to the
system, which hands it out again cleared: for a ResNet-50 in a quarter of a million page faults a step. With the
settings here it comes in pages of 2 MiB, once.
"""

import contextlib
import os
import platform
import sys

VARIABLE, PREFIX = "GLIBC_TUNABLES", "glibc.malloc."
SETTINGS = {
    "hugetlb": 1,  # ask for huge pages
    "arena_max": 1,  # of all arenas only the first can grow to large arrays; the others ask the system each time
    "mmap_max": 0,  # take large arrays from the arena too, not from the system one by one
    "trim_threshold": 2**46,  # give nothing back
}
ASKED_FOR = ":".join(f"{PREFIX}{name}={value}" for name, value in SETTINGS.items())


def keep_memory() -> None:
    """Begin this process again with glibc's allocator set as above; it reads its settings at the start alone.

    Nothing happens where the user has set it (GLIBC_TUNABLES=glibc.malloc.hugetlb=0 leaves all as glibc has it), or
    without glibc.
    """
    chosen = os.environ.get(VARIABLE, "")
    if PREFIX in chosen or not sys.orig_argv or not sys.executable or not _glibc_has_it():
        return
    os.environ[VARIABLE] = f"{chosen}:{ASKED_FOR}" if chosen else ASKED_FOR
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError):  # then it goes on as it is
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def memory_is_kept() -> bool:
    """Return whether this process keeps its memory, in huge pages."""
    return ASKED_FOR in os.environ.get(VARIABLE, "") and _glibc_has_it()


def _glibc_has_it() -> bool:
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    return name == "glibc" and numbers >= (2, 35)
