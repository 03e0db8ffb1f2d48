import os
import subprocess
import sys

import jax
import pytest

from cnnjax.system import compilation
from cnnjax.system.compilation import Store, cache_folder, keep_programs, make_private, prune

COMPUTE = """
import jax
from cnnjax.system.compilation import keep_programs

keep_programs()
found = {"hits": 0, "misses": 0}
jax.monitoring.register_event_listener(
    lambda event, **_: found.update({name: found[name] + 1 for name in found if event.endswith(f"cache_{name}")})
)
x = jax.random.normal(jax.random.key(0), (64, 64))
y = jax.jit(lambda x: jax.nn.softmax(x @ x.T) @ x)(x)
print(bytes(jax.device_get(y)).hex(), found["hits"], found["misses"], sep=",")
"""


@pytest.fixture(autouse=True)
def without_the_tests_own_programs():
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", folder)


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-c", COMPUTE], env={**os.environ, "CNNJAX_CACHE": str(folder)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(process):
    """Return the result's bytes, and how many programs were read and how many compiled."""
    told, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    result, hits, misses = told.split(",")
    return result, int(hits), int(misses)


def truncate(program):
    return program[: len(program) // 2]


def flip_a_bit(program):
    middle = len(program) // 2
    return program[:middle] + bytes([program[middle] ^ 1]) + program[middle + 1 :]


@pytest.mark.many_processes
def test_programs_are_read_again_and_damaged_ones_compiled_anew(tmp_path):
    (result, *_), (other, *_) = [end(process) for process in [start(tmp_path), start(tmp_path)]]  # at once
    assert result == other
    programs = sorted((tmp_path / "compiled").iterdir())
    assert end(start(tmp_path)) == (result, len(programs), 0)
    damages = [truncate, flip_a_bit, lambda program: b""]
    for path, damage in zip(programs, damages, strict=False):
        path.write_bytes(damage(path.read_bytes()))
    damaged = min(len(programs), len(damages))
    assert damaged == len(damages)
    assert end(start(tmp_path)) == (result, len(programs) - damaged, damaged)
    assert end(start(tmp_path)) == (result, len(programs), 0)
    assert sorted((tmp_path / "compiled").iterdir()) == programs


def test_a_program_of_another_processor_is_not_read(tmp_path, monkeypatch):
    Store(tmp_path).put("key", b"program")
    assert Store(tmp_path).get("key") == b"program"
    monkeypatch.setattr(compilation, "processor", lambda: "another")
    assert Store(tmp_path).get("key") is None


def test_what_was_used_longest_ago_is_forgotten_first(tmp_path):
    store = Store(tmp_path)
    for age, key in enumerate("abc"):
        store.put(key, bytes(68))  # 100 with the digest
        os.utime(store._file(key), (1000 - age, 1000 - age))
    store.get("c")
    (tmp_path / "notes.txt").write_bytes(bytes(1000))
    prune(tmp_path, bound=200)
    assert [key for key in "abc" if store.get(key)] == ["a", "c"]
    assert (tmp_path / "notes.txt").exists()


def test_the_bound_holds_where_programs_are_kept(tmp_path):
    folder = tmp_path / "compiled"
    make_private(folder)
    for age, name in enumerate(("new", "old")):
        path = folder / f"{name}{compilation.SUFFIX}"
        path.touch()
        os.truncate(path, compilation.BOUND // 2 + 1)  # it takes no room on the disk
        os.utime(path, (1000 - age, 1000 - age))
    command = [sys.executable, "-c", "from cnnjax.system.compilation import keep_programs; keep_programs()"]
    subprocess.run(command, env={**os.environ, "CNNJAX_CACHE": str(tmp_path)}, check=True, timeout=120)
    assert [path.name for path in folder.iterdir()] == [f"new{compilation.SUFFIX}"]


def test_where_programs_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CNNJAX_CACHE")
    assert cache_folder() == tmp_path / "home" / ".cache" / "cnnjax" / "compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "cnnjax" / "compiled"
    monkeypatch.setenv("CNNJAX_CACHE", "~/programs")
    assert cache_folder() == tmp_path / "home" / "programs" / "compiled"
    monkeypatch.setenv("CNNJAX_CACHE", "0")
    assert cache_folder() is None


def test_the_folder_is_ours_alone(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "compiled"
    make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    with pytest.raises(PermissionError, match=r"others may write to .*compiled; make it private"):
        make_private(folder)
    folder.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        make_private(folder)


def test_a_folder_that_cannot_be_used_is_one_line_of_notice(tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "file"))
    keep_programs()
    told = capfd.readouterr().err
    assert told.startswith("notice: compiled programs are not cached (")
    assert told.count("\n") == 1
    assert jax.config.jax_compilation_cache_dir is None


def test_programs_that_are_deterministic_on_a_gpu_are_asked_for_once_beside_other_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/somewhere")
    assert not compilation.are_deterministic()
    for _ in range(2):
        compilation.use_deterministic_programs()
        assert compilation.are_deterministic()
        assert compilation.os.environ["XLA_FLAGS"] == "--xla_dump_to=/somewhere --xla_gpu_deterministic_ops=true"


def test_xla_knows_the_flag(tmp_path):
    told = "import jax; print(jax.jit(lambda x: x + 1)(1))"
    environment = {**os.environ, "XLA_FLAGS": compilation.DETERMINISTIC, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", told]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr  # of an unknown flag XLA ends the process
