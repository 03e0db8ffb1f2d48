"""`load_pretrained`: networks of the package, weight files, model folders, and new heads."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import cnnjax
from cnnjax import create
from cnnjax.data.sources import EMBEDDED, read_split
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables, leaves_by_path
from cnnjax.hub import loading, model_folder
from cnnjax.hub.loading import INCLUDED, load_pretrained
from cnnjax.pretrained import OWN, registry
from cnnjax.runs.predictor import Predictor
from cnnjax.runs.records import read_record
from tests.convert.published import tensors_of
from tests.hostile.formats import TIMM_CONFIG
from tests.hub.fixtures import surroundings, weights

RECORDS = Path(__file__).parents[2] / "experiments" / "records"
INCLUDED_NAMES = [entry.name for entry in registry().values() if entry.source == OWN]


def same(a: Predictor, b: Predictor) -> bool:
    """Return whether two networks are equal bit for bit."""
    leaves = [leaves_by_path(network.variables._asdict()) for network in (a, b)]
    equal = leaves[0].keys() == leaves[1].keys() and all(
        np.array_equal(leaves[0][path], leaves[1][path]) and leaves[0][path].dtype == leaves[1][path].dtype
        for path in leaves[0]
    )
    return equal and (a.arch, a.classes, a.preprocessing, a.data) == (b.arch, b.classes, b.preprocessing, b.data)


@pytest.fixture
def network() -> Predictor:
    """A small network with batch statistics, whose outputs differ for different images."""
    arch = create("resnet18", depths=(1, 1), width=8, num_classes=3, input_size=16, block="basic")
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape).astype(leaf.dtype), abstract_variables(arch))
    like = load_pretrained("resnet20_cifar.cifar10_jpeg")
    preprocessing = like.preprocessing.replace(height=16, width=16)
    return Predictor(arch, variables, ("cat", "dog", "owl"), preprocessing, Path("run"), {})


class TestIncluded:
    @pytest.mark.parametrize("name", INCLUDED_NAMES)
    def test_states_the_figures_of_its_record(self, name):
        entry, config = registry()[name], json.loads((INCLUDED / name / "config.json").read_text())
        trained = config["trained"]
        recorded = read_record(RECORDS / trained["record"] / f"seed-{trained['seed']}")
        assert trained["results"] == {part: recorded.results[part] for part in ("validation", "test")}
        assert entry.top1 == pytest.approx(100 * recorded.results["test"]["top1"], abs=0.005)
        assert entry.top5 == pytest.approx(100 * recorded.results["test"]["top5"], abs=0.005)
        card = (INCLUDED / name / "README.md").read_text()
        assert f"{entry.top1:.2f} %" in card and trained["record"] in card and f"license: {entry.license}" in card

    def test_the_included_networks_take_less_than_two_megabytes_together(self):
        assert {path.name for path in INCLUDED.iterdir()} == set(INCLUDED_NAMES)
        assert sum(path.stat().st_size for path in INCLUDED.rglob("*") if path.is_file()) < 2_000_000

    def test_lenet_reaches_its_accuracy_on_the_embedded_subset(self):
        """The subset has 2,000 of the 10,000 test images, on which the record states 90.56 %."""
        network, split = load_pretrained("lenet.fashion_mnist"), read_split(EMBEDDED, "test")
        top1 = np.mean(network.logits(split.images).argmax(-1) == split.labels)
        assert 0.89 < top1 < 0.93


class TestPredict:
    def test_files_images_and_arrays_of_any_size_give_the_same_classes(self, tmp_path):
        network = load_pretrained("lenet.fashion_mnist")
        pixels = read_split(EMBEDDED, "test").images[0, ..., 0]
        Image.fromarray(pixels).save(tmp_path / "photo.png")
        inputs = [tmp_path / "photo.png", str(tmp_path / "photo.png"), pixels, pixels[..., None],
                  np.repeat(pixels[..., None], 3, -1), Image.fromarray(pixels)]  # fmt: skip
        answers = [network.predict(given, top=2)[0] for given in inputs]
        assert all(answer == answers[0] for answer in answers)
        together = network.predict(inputs, top=2)
        assert [[name for name, _ in answer] for answer in together] == [[name for name, _ in answers[0]]] * len(inputs)
        assert network.predict(np.stack([pixels, pixels])[..., None], top=2) == network.predict([pixels, pixels], top=2)
        assert len(network.predict(Image.fromarray(pixels).resize((90, 60)))[0]) == 3

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([], "no image is given"),
            (np.zeros((5, 5), np.float32), r"array float32\[5, 5\]"),
            (np.zeros((5, 5, 2), np.uint8), r"array uint8\[5, 5, 2\]"),
            (["missing.png"], "there is no image file missing.png"),
            ([3], "an image is a int"),
        ],
    )
    def test_anything_else_is_one_error(self, given, message):
        with pytest.raises(UserError, match=message):
            load_pretrained("lenet.fashion_mnist").predict(given)


class TestNewHead:
    def test_only_the_head_is_new_and_a_notice_says_so(self, capsys):
        before = load_pretrained("resnet20_cifar.cifar10_jpeg")
        after = cnnjax.load_pretrained("resnet20_cifar.cifar10_jpeg", num_classes=3)
        assert after.classes == ("0", "1", "2")
        old, new = leaves_by_path(before.variables.params), leaves_by_path(after.variables.params)
        changed = {
            path for path in old if old[path].shape != new[path].shape or not np.array_equal(old[path], new[path])
        }
        assert changed == {"head/kernel", "head/bias"}
        assert new["head/kernel"].shape[-1] == 3
        err = capsys.readouterr().err
        assert "for 10 classes is replaced by a new one for 3" in err and "params/head/kernel" in err

    def test_the_network_s_own_number_of_classes_keeps_the_head(self, capsys):
        assert same(load_pretrained("lenet.fashion_mnist", 10), load_pretrained("lenet.fashion_mnist"))
        assert "its head is kept" in capsys.readouterr().err

    def test_a_wrong_number_is_refused(self):
        with pytest.raises(UserError, match="num_classes is -1"):
            load_pretrained("lenet.fashion_mnist", num_classes=-1)


class TestFolder:
    def test_a_network_is_read_back_bit_for_bit(self, network, tmp_path):
        model_folder.write(tmp_path / "net", network, "# card\n", {"license": "mit"})
        back = load_pretrained(f"folder:{tmp_path / 'net'}")
        assert same(network, back)
        assert back.checkpoint == tmp_path / "net"
        assert sorted(path.name for path in (tmp_path / "net").iterdir()) == [
            "README.md", "config.json", "model.safetensors"
        ]  # fmt: skip

    def test_a_folder_that_is_not_empty_is_not_overwritten(self, network, tmp_path):
        (tmp_path / "mine").write_text("text")
        with pytest.raises(UserError, match="not an empty folder"):
            model_folder.write(tmp_path, network, "", {})

    def damage(self, folder, name, change):
        path = folder / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda config: {**config, "format": 99}, "newer than 1"),
            (lambda config: {key: config[key] for key in ("format", "cnnjax")}, "does not describe its network"),
            (lambda config: {**config, "classes": ["a"]}, "the number of classes is 1"),
            (lambda config: {**config, "model": {**config["model"], "width": 16}}, "does not fit the network"),
            (lambda config: {**config, "model": {**config["model"], "family": "transformer"}}, "transformer"),
            (lambda config: [], "it must be an object"),
        ],
    )  # fmt: skip
    def test_an_altered_config_is_refused(self, network, tmp_path, change, message):
        model_folder.write(tmp_path / "net", network, "", {})
        self.damage(tmp_path / "net", "config.json", change)
        with pytest.raises(UserError, match=message):
            load_pretrained(f"folder:{tmp_path / 'net'}")

    def test_other_tensors_are_refused(self, network, tmp_path):
        model_folder.write(tmp_path / "net", network, "", {})
        weights = tmp_path / "net" / "model.safetensors"
        tensors = load_file(weights)
        first = next(iter(tensors))
        for altered in ({**tensors, "extra": tensors[first]}, {k: v for k, v in tensors.items() if k != first}):
            save_file(altered, weights)
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
            self.damage(
                tmp_path / "net", "config.json", lambda config, digest=digest: {**config, "weights_sha256": digest}
            )
            with pytest.raises(UserError, match="does not fit the network"):
                load_pretrained(f"folder:{tmp_path / 'net'}")

    def test_a_flipped_bit_or_a_missing_file_is_detected(self, network, tmp_path):
        model_folder.write(tmp_path / "net", network, "", {})
        weights = tmp_path / "net" / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        for damaged in (content, content[:100]):
            weights.write_bytes(damaged)
            with pytest.raises(UserError, match="has the sha256.*get the folder again"):
                load_pretrained(f"folder:{tmp_path / 'net'}")
        weights.unlink()
        with pytest.raises(UserError, match="cannot be read"):
            load_pretrained(f"folder:{tmp_path / 'net'}")
        with pytest.raises(UserError, match="there is no folder"):
            load_pretrained(f"folder:{tmp_path / 'other'}")


class TestTimmFolder:
    """A repository of timm's, with a network that is small because its architecture is replaced by a tiny one."""

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        tiny = create("resnet18", depths=(1, 1), width=8)
        monkeypatch.setattr(
            "cnnjax.hub.timm_folder.create", lambda name, **options: {"resnet18": tiny}[name].replace(**options)
        )
        save_file(tensors_of(tiny.replace(num_classes=5), "timm"), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(TIMM_CONFIG))
        return tmp_path

    def test_architecture_preprocessing_and_classes_are_read(self, folder):
        network = load_pretrained(f"folder:{folder}")
        assert network.classes == tuple("abcde")
        assert network.preprocessing.resize_size == 40 and network.preprocessing.interpolation == "bicubic"
        assert network.preprocessing.mean == (0.1, 0.2, 0.3)
        kernel = load_file(folder / "model.safetensors")["fc.weight"]
        assert np.array_equal(network.variables.params["head"]["kernel"], kernel.T)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"architecture": "vit_base"}, "architecture is 'vit_base'"),
            ({"architecture": 3}, "architecture is 3"),
            ({"num_classes": 7}, "does not fit this network"),
            ({"pretrained_cfg": {}}, "is not a configuration of timm's"),
            ({"pretrained_cfg": {**TIMM_CONFIG["pretrained_cfg"], "crop_mode": "squash"}}, "crop_mode is 'squash'"),
            ({"pretrained_cfg": {**TIMM_CONFIG["pretrained_cfg"], "interpolation": "random"}}, "interpolation"),
        ],
    )
    def test_anything_else_is_refused(self, folder, change, message):
        (folder / "config.json").write_text(json.dumps({**TIMM_CONFIG, **change}))
        with pytest.raises(UserError, match=message):
            load_pretrained(f"folder:{folder}")


class TestFile:
    def test_a_published_file_is_recognized_by_its_hash(self, tmp_path, weights, monkeypatch):
        path = tmp_path / "renamed.bin"
        path.write_bytes(weights)
        digest = f"sha256:{hashlib.sha256(weights).hexdigest()[:8]}"
        known = registry()["resnet20_cifar.akamaster_cifar10"]._replace(hash=digest)
        monkeypatch.setattr(loading, "registry", lambda: {known.name: known})
        network = load_pretrained(f"file:{path}")
        assert network.arch == create("resnet20_cifar") and network.classes[0] == "airplane"

    def test_an_unknown_file_is_refused(self, tmp_path, weights):
        (tmp_path / "other.safetensors").write_bytes(weights)
        with pytest.raises(UserError, match=r"scripts/convert.py MODEL --from SOURCE"):
            load_pretrained(f"file:{tmp_path / 'other.safetensors'}")
        with pytest.raises(UserError, match="there is no file"):
            load_pretrained("file:missing.pth")


@pytest.mark.parametrize("name", ["hf:name", "hf:a/b/c", "hf:/name", "nothing", "file:", "folder:"])
def test_invalid_names_are_refused(name):
    with pytest.raises(UserError, match="unknown pretrained network|is not the name of a repository"):
        load_pretrained(name)
