"""The process restarts with other allocator settings and the same command."""

import os
import subprocess
import sys

import pytest

from cnnjax.system import memory
from cnnjax.system.memory import ASKED_FOR, VARIABLE

pytestmark = pytest.mark.skipif(not memory._is_supported(), reason="this C library has no such setting")
SCRIPT = """
import os, sys
from cnnjax.system.memory import keep_memory, memory_is_kept
keep_memory()
print(os.environ.get("GLIBC_TUNABLES"), memory_is_kept(), sys.argv[1:], sys.flags.utf8_mode)
sys.exit(3)
"""


def run(**environment):
    clean = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-X", "utf8", "-c", SCRIPT, "a b", "--c=d"]
    ended = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (3, "")
    return ended.stdout.strip()


def test_the_process_restarts_with_the_same_command():
    assert run() == f"{ASKED_FOR} True ['a b', '--c=d'] 1"


def test_other_settings_are_kept():
    kept = "glibc.cpu.x86_shstk=permissive"
    assert run(**{VARIABLE: kept}) == f"{kept}:{ASKED_FOR} True ['a b', '--c=d'] 1"


def test_the_user_s_setting_is_kept():
    assert run(**{VARIABLE: "glibc.malloc.hugetlb=0"}) == "glibc.malloc.hugetlb=0 False ['a b', '--c=d'] 1"
