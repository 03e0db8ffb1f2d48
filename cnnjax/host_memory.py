"""Large arrays in huge pages: on Linux a CPU otherwise spends a fifth of a training step on page faults.

XLA takes the memory for each step from the C library and gives it back after. In pages of 4 KiB the kernel hands it
out, cleared, in a quarter of a million faults a step for a ResNet-50; in pages of 2 MiB in some hundreds.
"""

import os
import platform
import sys

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
ASKED_FOR = f"{SETTING}=1"


def use_huge_pages() -> None:
    """Begin this process again with glibc's allocator asking for huge pages, which it reads at the start alone.

    Nothing happens where the user has chosen (GLIBC_TUNABLES=glibc.malloc.hugetlb=0 says no), or without glibc.
    """
    chosen = os.environ.get(VARIABLE, "")
    if SETTING in chosen or not sys.orig_argv or not _glibc_has_it():
        return
    os.environ[VARIABLE] = f"{chosen}:{ASKED_FOR}" if chosen else ASKED_FOR
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def huge_pages() -> bool:
    """Return whether this process asks for huge pages."""
    return ASKED_FOR in os.environ.get(VARIABLE, "") and _glibc_has_it()


def _glibc_has_it() -> bool:
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    return name == "glibc" and numbers >= (2, 35)
