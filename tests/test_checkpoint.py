import errno
import logging
import os
import re
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import __version__, checkpoint
from cnnjax.errors import UserError
from cnnjax.system import files, formats
from cnnjax.system.files import sha256, write_json
from cnnjax.system.lock import LostLock, locked

TREE = {"params": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}, "batch_stats": {}}


def save(folder, step, best_step=None):
    return checkpoint.save(
        folder, step, {"variables": TREE}, {"early_stopping": {"best_step": best_step or step}, "epoch": step}
    )


def names(folder):
    return [path.name for path in checkpoint.list_paths(folder)]


def test_round_trip_of_arrays_and_info(tmp_path):
    saved = save(tmp_path, 10)
    loaded = checkpoint.open_checkpoint(saved.path)
    assert (loaded.step, loaded.info["epoch"], loaded.info["format"]) == (10, 10, checkpoint.FORMAT)
    restored = checkpoint.restore(loaded, "variables", TREE)
    assert np.array_equal(restored["params"]["kernel"], TREE["params"]["kernel"])
    assert restored["batch_stats"] == {}


def test_a_path_that_is_not_utf8_is_refused(tmp_path):
    saved = save(tmp_path / "run", 10)
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(UserError, match=r"cannot hold checkpoints, because its path is not UTF-8"):
        save(folder, 10)
    assert not folder.exists()
    (tmp_path / "run").rename(folder)
    loaded = checkpoint.open_checkpoint(folder / saved.path.name)
    with pytest.raises(UserError, match=r"cannot hold checkpoints, because its path is not UTF-8"):
        checkpoint.restore(loaded, "variables", TREE)


def test_newest_is_by_step_number_and_not_by_name(tmp_path):
    for step in (5, 99_999_999, 100_000_000):
        save(tmp_path, step)
    loaded, notices = checkpoint.newest_good(tmp_path)
    assert (loaded.step, notices) == (100_000_000, [])


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert checkpoint.newest_good(tmp_path) == (None, [])
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.best(tmp_path)


def every_file(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


DAMAGES = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "deleted": lambda path: path.unlink(),
    "one bit flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_sets_the_checkpoint_aside_and_uses_the_previous_one(tmp_path, damage):
    save(tmp_path / "whole", 1)
    newest = save(tmp_path / "whole", 2).path
    for index, file in enumerate(every_file(newest)):  # the number of files that orbax writes varies
        folder = tmp_path / str(index)
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / file.relative_to(tmp_path / "whole")
        DAMAGES[damage](path)
        loaded, notices = checkpoint.newest_good(folder)
        assert loaded.step == 1, path
        assert len(notices) == 1
        assert (folder / "damaged-step-00000002").is_dir()


def test_an_unknown_file_in_a_checkpoint_is_refused(tmp_path):
    saved = save(tmp_path, 1)
    (saved.path / "variables" / "extra").write_text("x")
    with pytest.raises(UserError, match="its files differ from its manifest"):
        checkpoint.open_checkpoint(saved.path)


def test_if_all_checkpoints_are_damaged_an_error_lists_them(tmp_path):
    for step in (1, 2):
        (save(tmp_path, step).path / "info.json").unlink()
    for _ in range(2):  # the second call fails too
        with pytest.raises(UserError, match="damaged: damaged-step-00000001, damaged-step-00000002"):
            checkpoint.newest_good(tmp_path)


def test_pruning_keeps_the_best_of_each_kept_checkpoint(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, best_step=1)
    save(tmp_path, 3)
    checkpoint.prune(tmp_path, keep=2, best_step=3)
    (save(tmp_path, 3).path / "info.json").unlink()
    assert checkpoint.newest_good(tmp_path)[0].step == 2
    assert checkpoint.best(tmp_path).step == 1


def test_a_failed_prune_leaves_no_partial_checkpoint(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        save(tmp_path, step)

    def fail(path, **options):
        every_file(path)[0].unlink()
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fail)
        checkpoint.prune(tmp_path, keep=1, best_step=3)
    assert [checkpoint.open_checkpoint(path).step for path in checkpoint.list_paths(tmp_path)] == [3]
    checkpoint.prune(tmp_path, keep=1, best_step=3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def failing(monkeypatch, number, names):
    """Make reading the named files of the newest checkpoint fail."""
    plain = files.open_plain

    def open_plain(path):
        if "step-00000002" in str(path) and path.name in names:
            raise OSError(number, os.strerror(number), str(path))
        return plain(path)

    monkeypatch.setattr(files, "open_plain", open_plain)


FILES = ("manifest.json", "info.json", "format.json", "_METADATA")


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_on_a_bad_sector_counts_as_damaged(tmp_path, monkeypatch, name):
    for step in (1, 2):
        save(tmp_path, step)
    failing(monkeypatch, errno.EIO, [name])
    assert checkpoint.best(tmp_path).step == 1
    loaded, (notice,) = checkpoint.newest_good(tmp_path)
    assert loaded.step == 1
    assert re.search(f"step-00000002 is damaged: .*{name}.*Input/output error.*kept as damaged-step-00000002", notice)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOMEM, errno.EMFILE, errno.ESTALE])
def test_a_temporarily_unreadable_checkpoint_is_left_as_it_is(tmp_path, monkeypatch, name, number):
    for step in (1, 2):
        save(tmp_path, step)
    failing(monkeypatch, number, [name])
    for find in (checkpoint.best, checkpoint.newest_good):
        with pytest.raises(checkpoint.OutOfReach, match=f"step-00000002 cannot be read now .{os.strerror(number)}"):
            find(tmp_path)
    monkeypatch.undo()
    assert checkpoint.newest_good(tmp_path)[0].step == 2


def test_a_temporarily_unreadable_folder_does_not_count_as_damage(tmp_path, monkeypatch):
    save(tmp_path, 1)
    scandir = os.scandir

    def refuse(path):
        if "variables" in str(path):
            raise OSError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(checkpoint.OutOfReach, match="Permission denied"):
        checkpoint.newest_good(tmp_path)


def within(folder, step, best_step):
    info = {"early_stopping": {"best_step": best_step}}
    return checkpoint.save(folder, step, {"variables": TREE}, info, within_epoch=True)


def test_a_checkpoint_within_an_epoch_is_replaced_by_the_next_whole_epoch(tmp_path):
    for step in (10, 20):
        save(tmp_path, step, best_step=10)
    assert within(tmp_path, 27, 10).path.name == "within-00000027"
    within(tmp_path, 30, 10)
    assert checkpoint.newest_good(tmp_path)[0].step == checkpoint.newest_step(tmp_path) == 30
    assert checkpoint.best(tmp_path).step == 10
    save(tmp_path, 30)  # the same step, after the evaluation
    assert checkpoint.newest_good(tmp_path)[0].path.name == "step-00000030"
    checkpoint.prune(tmp_path, keep=2, best_step=30)
    assert names(tmp_path) == ["step-00000010", "step-00000020", "step-00000030"]


def test_a_checkpoint_within_the_first_epoch_is_never_the_best(tmp_path):
    within(tmp_path, 3, 0)
    with pytest.raises(UserError, match="within-00000003 was saved within the first epoch, before any evaluation"):
        checkpoint.best(tmp_path)


def test_a_damaged_checkpoint_that_cannot_be_renamed_is_one_error(tmp_path, monkeypatch):
    (save(tmp_path, 1).path / "info.json").unlink()

    def refuse(path, target):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match="is damaged: .*; it cannot be renamed to .*: Read-only file system"):
        checkpoint.newest_good(tmp_path)


def test_a_failed_save_leaves_only_the_earlier_checkpoints(tmp_path, monkeypatch, caplog):
    save(tmp_path, 1)
    for error in (OSError(errno.ENOSPC, "No space left on device"), ValueError("... No space left on device [...]")):

        def fail(*arguments, error=error):
            logging.getLogger("asyncio").error("a pending write of orbax fails too")
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.writing, "sync_tree", fail)
            with pytest.raises(
                UserError, match=r"00002 could not be saved \(No space left on device\); earlier checkpoints"
            ):
                save(tmp_path, 2)
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert caplog.text == ""
    assert checkpoint.open_checkpoint(tmp_path / "step-00000001").step == 1


def test_a_folder_moved_during_a_save_is_not_recreated(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "run" / "checkpoints"
    save(folder, 1)
    write = checkpoint.writing._write

    def moved(*arguments):
        (tmp_path / "run").rename(tmp_path / "away")
        write(*arguments)

    monkeypatch.setattr(checkpoint.writing, "_write", moved)
    info = {"early_stopping": {"best_step": 2}}
    with pytest.raises(UserError, match=r"could not be saved \(its folder has vanished in the meantime\)"):
        checkpoint.save(folder, 2, {"variables": TREE}, info, place=folder.stat())
    assert not (tmp_path / "run").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fails", [False, True])
def test_losing_the_lock_during_a_save_keeps_the_other_process_s_files(tmp_path, monkeypatch, fails):
    write, lock = checkpoint.writing._write, tmp_path / ".lock"
    temporary = tmp_path / "checkpoints" / ".step-00000001.writing"

    def lose(*arguments):
        write(*arguments)
        lock.unlink()
        (temporary / "theirs").touch()
        if fails:
            raise FileNotFoundError

    monkeypatch.setattr(checkpoint.writing, "_write", lose)
    with locked(lock) as require_lock, pytest.raises(LostLock):
        checkpoint.save(tmp_path / "checkpoints", 1, {"variables": TREE}, {}, require_lock=require_lock)
    assert (temporary / "theirs").exists()
    assert names(tmp_path / "checkpoints") == []


def test_everything_is_synced_before_the_rename_and_the_rename_before_save_returns(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, Path.rename

    def logging_fsync(descriptor):
        events.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def logging_rename(path, target):
        events.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", logging_fsync)
    monkeypatch.setattr(Path, "rename", logging_rename)
    path = save(tmp_path / "run" / "checkpoints", 1).path
    before, after = events[: events.index("renamed")], events[events.index("renamed") + 1 :]
    temporary = path.parent / ".step-00000001.writing"
    files = {str(temporary / file.relative_to(path)) for file in path.rglob("*")}  # and folders
    assert files | {str(tmp_path), str(tmp_path / "run"), str(temporary)} <= set(before)
    assert after == [str(path.parent)]


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step)
    (tmp_path / ".step-00000007.writing").mkdir()
    checkpoint.prune(tmp_path, keep=2, best_step=3)
    assert names(tmp_path) == ["step-00000003", "step-00000005", "step-00000006"]
    assert not list(tmp_path.glob(".*"))


def test_best_is_the_one_that_the_newest_names(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, best_step=1)
    assert checkpoint.best(tmp_path).step == 1


def test_if_the_newest_is_damaged_the_previous_one_names_the_best(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, best_step=1)
    (save(tmp_path, 3, best_step=1).path / "info.json").unlink()
    assert checkpoint.best(tmp_path).step == 1
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]


def test_a_damaged_or_missing_best_checkpoint_is_named(tmp_path):
    best = save(tmp_path, 1).path
    save(tmp_path, 2, best_step=1)
    (best / "info.json").write_text("{}")
    with pytest.raises(UserError, match="step-00000001 is damaged: .*; it is the best one"):
        checkpoint.best(tmp_path)
    shutil.rmtree(best)
    with pytest.raises(UserError, match="the best checkpoint, .*step-00000001, is missing"):
        checkpoint.best(tmp_path)


@pytest.mark.parametrize("manifest", ['{"a": NaN}', '{"a": "\\ud800"}', "[]", "3", "{}"])
def test_an_invalid_manifest_counts_as_damage(tmp_path, manifest):
    (save(tmp_path, 1).path / "manifest.json").write_text(manifest)
    with pytest.raises(checkpoint.Damaged, match="is damaged"):
        checkpoint.open_checkpoint(tmp_path / "step-00000001")


def test_an_untrained_checkpoint_is_its_own_best(tmp_path):
    checkpoint.save(tmp_path, 0, {"variables": TREE}, {})
    assert checkpoint.best(tmp_path).step == 0


def test_a_newer_format_is_refused_and_not_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.writing, "FORMAT", checkpoint.FORMAT + 1)
    monkeypatch.setattr(formats, "__version__", "9.1.0")
    save(tmp_path, 1)
    monkeypatch.undo()
    message = f"newer than 2; it needs cnnjax 9.1.0 or newer, and this is {__version__}"
    with pytest.raises(UserError, match=message):
        checkpoint.best(tmp_path)
    with pytest.raises(UserError, match=message):
        checkpoint.newest_good(tmp_path)
    assert names(tmp_path) == ["step-00000001"]


@pytest.fixture
def newer_checkpoint(tmp_path):
    """A checkpoint in a future format, which shares only format.json with the current one."""
    path = tmp_path / "step-00000002"
    path.mkdir()
    formats.write_file(path, checkpoint.FORMAT + 1)
    (path / "manifest.json").write_text("[]")
    return path


def test_a_newer_format_with_another_manifest_is_refused_and_not_set_aside(tmp_path, newer_checkpoint):
    save(tmp_path, 1)
    for find in (checkpoint.best, checkpoint.newest_good):
        with pytest.raises(formats.NewerFormat, match="step-00000002 has format 3, newer than 2; it needs cnnjax "):
            find(tmp_path)
    assert newer_checkpoint.is_dir()


def test_a_flipped_bit_counts_as_damage_and_not_as_a_newer_format(tmp_path, newer_checkpoint):
    content = (newer_checkpoint / formats.FILE).read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        (newer_checkpoint / formats.FILE).write_bytes(changed)
        with pytest.raises(UserError, match="step-00000002 is damaged: .*format.json ") as error:
            checkpoint.open_checkpoint(newer_checkpoint)
        assert not isinstance(error.value, formats.NewerFormat)


def test_saving_the_same_step_replaces_the_checkpoint(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 1, best_step=9)
    assert checkpoint.open_checkpoint(tmp_path / "step-00000001").info["early_stopping"]["best_step"] == 9


def test_restoring_another_structure_is_refused(tmp_path):
    saved = save(tmp_path, 1)
    other = {"params": {**TREE["params"], "other": jnp.ones(3)}, "batch_stats": {}}
    with pytest.raises(UserError, match=r"\['params'\]\['other'\] is missing; it must be float32\[3\]"):
        checkpoint.restore(saved, "variables", other)
    with pytest.raises(UserError, match=r"\['bias'\] is float32\[3\]; it must be absent"):
        checkpoint.restore(saved, "variables", {"params": {"kernel": jnp.ones((2, 3))}, "batch_stats": {}})
    with pytest.raises(UserError, match="is missing; it must be"):
        checkpoint.restore(saved, "training", TREE)


def test_restoring_another_shape_is_refused(tmp_path):
    saved = save(tmp_path, 1)
    wrong = {"params": {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(3)}, "batch_stats": {}}
    with pytest.raises(UserError, match=r"\['kernel'\] is float32\[2, 3\]; it must be float32\[2, 4\]"):
        checkpoint.restore(saved, "variables", wrong)


@pytest.mark.parametrize(
    ("message", "info"),
    [
        ("is described by \\[\\]; it must be an object", []),
        ("its field 'items' is None", {}),
        ("its field 'items' is 3", {"items": 3}),
        ("its field 'items' is {'variables': 3}", {"items": {"variables": 3}}),
        ("its field 'early_stopping' is 3", {"items": {}, "early_stopping": 3}),
        ("its field 'early_stopping' is {'best_step': 1.5}", {"items": {}, "early_stopping": {"best_step": 1.5}}),
        ("its field 'tally' is {'loss': 'x'}", {"items": {}, "tally": {"loss": "x"}}),
        ("its field 'data' is {'content_hash': 3}", {"items": {}, "data": {"content_hash": 3}}),
        ("its field 'epoch' is None", {"items": {}, "epoch": None}),
        ("its field 'seconds' is '1'", {"items": {}, "seconds": "1"}),
    ],
)
def test_invalid_info_is_refused(tmp_path, message, info):
    path = tmp_path / "step-00000009"
    path.mkdir()
    write_json(path / "info.json", {"format": 1, **info} if isinstance(info, dict) else info)
    write_json(path / "manifest.json", {"info.json": sha256(path / "info.json")})
    with pytest.raises(checkpoint.Damaged, match=message):
        checkpoint.open_checkpoint(path)


def test_invalid_array_metadata_is_one_error(tmp_path):
    saved = save(tmp_path, 10)
    (saved.path / "variables" / "_METADATA").write_text("[1, 2]")
    with pytest.raises(UserError, match="checkpoint .*step-00000010 cannot be read: variables: "):
        checkpoint.restore(saved, "variables", TREE)


def test_a_changed_byte_under_a_matching_manifest_is_one_error(tmp_path):
    saved = save(tmp_path, 10)
    for file in (saved.path / "variables" / "d").iterdir():
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(UserError, match="step-00000010 cannot be read"):
        checkpoint.restore(saved, "variables", TREE)
