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
counts = {"hits": 0, "misses": 0}
jax.monitoring.register_event_listener(
    lambda event, **_: counts.update({name: counts[name] + 1 for name in counts if event.endswith(f"cache_{name}")})
)
x = jax.random.normal(jax.random.key(0), (64, 64))
y = jax.jit(lambda x: jax.nn.softmax(x @ x.T) @ x)(x)
print(bytes(jax.device_get(y)).hex(), counts["hits"], counts["misses"], sep=",")
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
    """Return the bytes of the result and the numbers of programs read and compiled."""
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    result, hits, misses = output.split(",")
    return result, int(hits), int(misses)


def truncate(program):
    return program[: len(program) // 2]


def flip_a_bit(program):
    middle = len(program) // 2
    return program[:middle] + bytes([program[middle] ^ 1]) + program[middle + 1 :]


@pytest.mark.many_processes
def test_programs_are_cached_and_damaged_ones_recompiled(tmp_path):
    (result, *_), (other, *_) = [end(process) for process in [start(tmp_path), start(tmp_path)]]  # concurrently
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


def test_a_program_for_another_processor_is_not_used(tmp_path, monkeypatch):
    Store(tmp_path).put("key", b"program")
    assert Store(tmp_path).get("key") == b"program"
    monkeypatch.setattr(compilation, "processor", lambda: "another")
    assert Store(tmp_path).get("key") is None


def test_least_recently_used_programs_are_evicted_first(tmp_path):
    store = Store(tmp_path)
    for age, key in enumerate("abc"):
        store.put(key, bytes(68))  # 100 with the digest
        os.utime(store._file(key), (1000 - age, 1000 - age))
    store.get("c")
    (tmp_path / "notes.txt").write_bytes(bytes(1000))
    prune(tmp_path, bound=200)
    assert [key for key in "abc" if store.get(key)] == ["a", "c"]
    assert (tmp_path / "notes.txt").exists()


def test_the_cache_size_is_bounded(tmp_path):
    folder = tmp_path / "compiled"
    make_private(folder)
    for age, name in enumerate(("new", "old")):
        path = folder / f"{name}{compilation.SUFFIX}"
        path.touch()
        os.truncate(path, compilation.BOUND // 2 + 1)  # a sparse file
        os.utime(path, (1000 - age, 1000 - age))
    command = [sys.executable, "-c", "from cnnjax.system.compilation import keep_programs; keep_programs()"]
    subprocess.run(command, env={**os.environ, "CNNJAX_CACHE": str(tmp_path)}, check=True, timeout=120)
    assert [path.name for path in folder.iterdir()] == [f"new{compilation.SUFFIX}"]


def test_location_of_the_cache(monkeypatch, tmp_path):
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


def test_a_cache_folder_that_others_may_write_is_refused(tmp_path, monkeypatch):
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


def test_an_unusable_cache_folder_prints_one_notice(tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "file"))
    keep_programs()
    notice = capfd.readouterr().err
    assert notice.startswith("notice: compiled programs are not cached (")
    assert notice.count("\n") == 1
    assert jax.config.jax_compilation_cache_dir is None


def test_the_deterministic_flag_is_added_once_and_keeps_other_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/somewhere")
    assert not compilation.are_deterministic()
    for _ in range(2):
        compilation.use_deterministic_programs()
        assert compilation.are_deterministic()
        assert compilation.os.environ["XLA_FLAGS"] == "--xla_dump_to=/somewhere --xla_gpu_deterministic_ops=true"


def test_xla_knows_the_flag(tmp_path):
    code = "import jax; print(jax.jit(lambda x: x + 1)(1))"
    environment = {**os.environ, "XLA_FLAGS": compilation.DETERMINISTIC, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr  # XLA ends the process on an unknown flag
