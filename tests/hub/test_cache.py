"""The cache of published networks: its content is verified, whatever a server, a disk or another process does."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save

from cnnjax import create
from cnnjax.convert import load_weights
from cnnjax.errors import UserError
from cnnjax.functional import leaves_by_path
from cnnjax.hub import cache
from cnnjax.pretrained import find, list_pretrained
from tests.convert.published import tensors_of
from tests.hub.fixtures import entry, server, surroundings, weights
from tests.hub.server import Answer


@pytest.fixture
def file(tmp_path, weights):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weights)
    return path


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def same(network, file) -> bool:
    """Return whether the network has exactly the parameters and statistics of a weight file."""
    expected = load_weights(network.arch, "cifar", file)
    pairs = zip(network.variables, expected, strict=True)
    return all(
        np.array_equal(leaf, leaves_by_path(b)[path]) for a, b in pairs for path, leaf in leaves_by_path(a).items()
    )


def test_a_network_is_downloaded_once_and_its_hash_recorded(surroundings, server, entry, file):
    assert not cache.is_cached(entry)
    assert same(cache.load(entry), file)
    assert cache.is_cached(entry)
    network = cache.load(entry)
    assert same(network, file)
    assert len(server[0].requests) == 1
    assert network.classes[:2] == ("airplane", "automobile")
    assert network.preprocessing.mean == (0.485, 0.456, 0.406)
    folder = surroundings / entry.name
    assert names(folder) == {"run", "record.json"}
    assert json.loads((folder / "record.json").read_text())["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_broken_download_is_resumed_and_verified(server, entry, file):
    server[0].answers = [Answer(cut=400_000), Answer(status=500), Answer(cut=10)]
    assert same(cache.load(entry), file)
    assert [asked for _, asked in server[0].requests] == [None, *["bytes=400000-"] * 2, "bytes=400010-"]


def test_wrong_bytes_are_set_aside_and_never_loaded(surroundings, server, entry, file, weights):
    wrong = bytearray(weights)
    wrong[-1] ^= 1
    server[0].answers = [Answer(body=bytes(wrong)), Answer(body=bytes(wrong))]
    folder = surroundings / entry.name
    for count in (1, 2):
        with pytest.raises(UserError, match=f"needs {entry.hash.partition(':')[2]}.*download it again"):
            cache.load(entry)
        assert len(names(folder)) == count
        assert all(name.startswith("damaged-") for name in names(folder))
        assert not cache.is_cached(entry)
    assert same(cache.load(entry), file)


def test_a_part_of_another_file_is_detected_by_the_hash(surroundings, entry, file):
    folder = surroundings / entry.name
    folder.mkdir(parents=True)
    (folder / f"{entry.file_name}.part").write_bytes(b"other bytes")
    with pytest.raises(UserError, match="download it again"):
        cache.load(entry)
    assert same(cache.load(entry), file)


def test_an_md5_is_compared_too(server, entry, weights, file):
    assert same(cache.load(entry._replace(hash=f"md5:{hashlib.md5(weights).hexdigest()}")), file)
    server[0].content = weights + b"x"
    with pytest.raises(UserError, match="has the md5"):
        cache.load(entry._replace(name="resnet20_cifar.other", hash=f"md5:{hashlib.md5(weights).hexdigest()}"))


def test_the_first_file_s_sha256_is_required_from_then_on(surroundings, server, entry):
    """A publisher that states no hashes replaces the file from which the network was made."""
    unknown = entry._replace(hash="")
    cache.load(unknown)
    (surroundings / entry.name / "run").rename(surroundings / "moved")
    server[0].content = save(tensors_of(create("resnet20_cifar"), "cifar", seed=1))
    with pytest.raises(UserError, match="that of the first verified file"):
        cache.load(unknown)


def test_a_damaged_checkpoint_is_set_aside_and_downloaded_again(surroundings, server, entry, file, capsys):
    cache.load(entry)
    run = surroundings / entry.name / "run"
    largest = max(run.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    assert same(cache.load(entry), file)
    assert "is damaged" in (err := capsys.readouterr().err) and "kept as damaged-run" in err
    assert len(server[0].requests) == 2
    assert names(run.parent) == {"run", "record.json", "damaged-run"}


def test_a_file_fetched_by_hand_is_verified_and_kept(server, entry, file):
    assert same(cache.put(entry, file), file)
    assert same(cache.load(entry), file)
    assert not server[0].requests


@pytest.mark.parametrize(
    ("entry_changes", "message"),
    [
        ({"hash": "sha256:00000000"}, "needs 00000000 (as published)"),
        ({"name": "resnet32_cifar.other", "hash": ""}, "does not fit this network"),
        ({"name": "vgg11.other", "source": "timm", "hash": ""}, "none of the"),
    ],
)
def test_a_file_that_is_not_the_network_s_is_refused(surroundings, entry, file, entry_changes, message):
    other = entry._replace(**entry_changes)
    with pytest.raises(UserError) as error:
        cache.put(other, file)
    assert message in str(error.value)
    assert not names(surroundings / other.name)
    assert file.exists()


def test_a_download_that_does_not_fit_is_set_aside(surroundings, entry):
    other = entry._replace(name="resnet32_cifar.other", hash="")
    with pytest.raises(UserError, match="does not fit this network.*kept as damaged-"):
        cache.load(other)
    assert names(surroundings / other.name) == {"damaged-weights.safetensors.part"}


def test_without_a_connection_the_error_states_the_put_command_at_once(entry, monkeypatch):
    offline = entry._replace(address="http://127.0.0.1:9/weights.safetensors")
    command = f"python scripts/pretrained.py put {entry.name} weights.safetensors"
    with pytest.raises(UserError) as error:
        cache.load(offline)
    assert command in str(error.value) and offline.address in str(error.value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set") as error:
        cache.load(entry)
    assert command in str(error.value) and entry.address in str(error.value)


def test_a_mirror_replaces_the_publisher_s_server(server, entry, monkeypatch):
    monkeypatch.setenv("CNNJAX_MIRROR", f"{server[1]}/mirror/")
    cache.load(entry._replace(address="http://127.0.0.1:9/models/weights.safetensors"))
    assert server[0].requests == [("/mirror/weights.safetensors", None)]


def test_a_custom_hub_replaces_the_public_one(server, entry, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server[1])
    cache.load(entry._replace(address="https://huggingface.co/timm/name/resolve/main/model.safetensors"))
    assert server[0].requests == [("/timm/name/resolve/main/model.safetensors", None)]


def test_a_damaged_record_is_reported(surroundings, entry, file):
    (surroundings / entry.name).mkdir(parents=True)
    (surroundings / entry.name / "record.json").write_text('{"sha256": "12"}')
    with pytest.raises(UserError, match="record.json is damaged"):
        cache.put(entry, file)


def test_without_a_cache_folder_the_variable_is_named(entry, monkeypatch):
    monkeypatch.delenv("CNNJAX_PRETRAINED")
    with pytest.raises(UserError, match="set CNNJAX_PRETRAINED"):
        cache.load(entry)
    assert not cache.is_cached(entry)


def test_unknown_names_get_near_matches():
    with pytest.raises(UserError, match=r"did you mean 'resnet50\.tv_in1k'"):
        find("resnet50.tv_in1")
    with pytest.raises(UserError, match="unknown pretrained network 'nothing'"):
        find("nothing")


def test_patterns_may_leave_out_the_tag():
    assert list_pretrained("resnet50_v1") == ["resnet50_v1.keras_in1k"]
    assert set(list_pretrained("resnet50*")) > set(list_pretrained("resnet50")) > {"resnet50.tv_in1k_v2"}
    assert not list_pretrained("nothing")


def test_a_full_disk_keeps_the_verified_download(surroundings, server, entry, file, monkeypatch):
    def fails(*arguments, **options):
        raise UserError("checkpoint could not be saved (No space left on device)")

    with monkeypatch.context() as patched:
        patched.setattr("cnnjax.checkpoint.save", fails)
        with pytest.raises(UserError, match="No space left"):
            cache.load(entry)
    assert names(surroundings / entry.name) == {"weights.safetensors.part", "record.json"}
    assert same(cache.load(entry), file)
    assert [asked for _, asked in server[0].requests] == [None, f"bytes={len(server[0].content)}-"]
