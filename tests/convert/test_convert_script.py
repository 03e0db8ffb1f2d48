"""scripts/convert.py as a user runs it."""

import os

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from cnnjax import create, init
from cnnjax.convert import save_weights
from cnnjax.convert.class_list import read_class_names
from cnnjax.convert.folder import convert_to_run
from cnnjax.errors import UserError
from cnnjax.runs import predictor
from tests.convert.published import KERAS_V1, tensors_of, write_legacy_h5
from tests.script import run_script

CIFAR = create("resnet20_cifar")
MEAN_STD = ("--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25")


@pytest.fixture
def script(tmp_path):
    return lambda name, *arguments: run_script(name, *arguments, cwd=tmp_path)


def test_convert_predict_and_convert_back(tmp_path, script):
    tensors = tensors_of(CIFAR, "cifar")
    save_file(tensors, tmp_path / "weights.safetensors")
    classes = [f"kind{n}" for n in range(10)]
    file, run = tmp_path / "weights.safetensors", tmp_path / "run"
    done = run_script("convert.py", "resnet20_cifar", "--from", "cifar", file, run, *MEAN_STD, "--classes", *classes)
    assert done.returncode == 0, done.stderr
    assert "269,722 parameters" in done.stdout
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    done = run_script("predict.py", tmp_path / "run", tmp_path / "photo.png")
    assert "photo.png: kind" in done.stdout
    done = run_script("convert.py", tmp_path / "run", "--to", "cifar", tmp_path / "back.safetensors")
    assert done.returncode == 0, done.stderr
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name], tensors[name]) for name in back)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet20_cifar"], "neither --from nor --to is given"),
        (["resnet20", "--from", "cifar", "x", "y"], "unknown model 'resnet20'; did you mean"),
        (["resnet50", "--from", "keras", "x", "y"], "unknown source 'keras'; choose from: timm, torchvision"),
        (["resnet50", "--from", "timm", "missing.pth", "out"], "missing.pth cannot be read"),
        (["resnet20_cifar", "--from", "cifar", "x", "out"], "give --mean and --std"),
        (["resnet50", "--from", "timm", "x"], "required"),
        (["missing", "--to", "timm", "x.safetensors"], "is not a run folder"),
        (["resnet18", "--from", "timm", "x", "y", "--mean", "nan", "0", "0"], "preprocessing.mean"),
    ],
)
def test_invalid_input_is_one_error(arguments, message, tmp_path):
    done = run_script("convert.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


class TestFolder:
    def convert(self, tmp_path, file="a.h5", **options):
        path = tmp_path / file
        if not path.exists():
            write_legacy_h5(path, tensors_of(KERAS_V1, "keras"))
        return convert_to_run("resnet50_v1", KERAS_V1, "keras", path, tmp_path / "out", **options)

    @pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
    def test_folder_permissions_follow_the_umask(self, tmp_path, umask):
        before = os.umask(umask)
        try:
            self.convert(tmp_path)
        finally:
            os.umask(before)
        assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask

    def test_preprocessing_is_the_publisher_s(self, tmp_path):
        self.convert(tmp_path)
        network = predictor.load(tmp_path / "out")
        assert (network.preprocessing.channel_order, network.preprocessing.interpolation) == ("bgr", "nearest")
        assert network.preprocessing.height == 32
        assert network.classes == ("0", "1", "2", "3", "4")

    def test_a_notice_says_what_is_assumed_about_the_images_of_a_fine_tuned_network(self, tmp_path):
        assert "a.h5 does not state how its images are prepared" in self.convert(tmp_path)  # it has 5 classes
        (tmp_path / "out").rename(tmp_path / "first")
        assert "does not state" not in self.convert(tmp_path, channel_order="rgb")

    def test_class_names_are_read_from_a_text_file(self, tmp_path):
        (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne e\n")
        self.convert(tmp_path, classes=(str(tmp_path / "names.txt"),))
        assert predictor.load(tmp_path / "out").classes == ("a", "b", "c", "d", "e e")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"classes": ("a", "b")}, "predictions/bias is [5] instead of [2]"),
            ({"classes": ("missing.txt",)}, "cannot be read as text"),
            ({"mean": (0.5,), "std": (0.5,)}, "the network takes images with 3 channels"),
            ({"std": (0.5, 0.5, 0.0)}, "preprocessing.std"),
        ],
    )
    def test_options_that_do_not_fit_the_weights_are_refused_without_writing(self, tmp_path, options, message):
        with pytest.raises(UserError) as error:
            self.convert(tmp_path, **options)
        assert message in str(error.value)
        assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]

    def test_a_folder_that_is_not_empty_is_refused(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("text")
        with pytest.raises(UserError, match="exists and is not an empty folder"):
            self.convert(tmp_path)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]

    def test_a_symlink_is_refused(self, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UserError, match="exists and is not an empty folder"):
            self.convert(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "elsewhere", "out"]

    def test_a_failure_leaves_nothing_behind(self, tmp_path, monkeypatch):
        def fails(*arguments):
            raise OSError("no space left on device")

        monkeypatch.setattr("cnnjax.checkpoint.save", fails)
        with pytest.raises(OSError, match="no space"):
            self.convert(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]

    def test_a_network_without_classes_cannot_predict(self, tmp_path):
        path = write_legacy_h5(tmp_path / "a.h5", tensors_of(KERAS_V1, "keras"))
        convert_to_run("resnet50_v1", KERAS_V1.replace(num_classes=0), "keras", path, tmp_path / "out")
        network = predictor.load(tmp_path / "out")
        with pytest.raises(UserError, match="has no classes"):
            network.top(np.zeros((1, 32, 32, 3), np.uint8), 3)

    @pytest.mark.compiles_large
    def test_state_dicts_need_a_known_suffix_and_an_existing_folder(self, tmp_path):
        variables = init(CIFAR, jax.random.key(0))
        for name in ("", ".", "out.pth", "missing/out.safetensors"):
            with pytest.raises(UserError, match=r"ends in \.safetensors"):
                save_weights(CIFAR, variables, "cifar", tmp_path / name)
        assert not list(tmp_path.iterdir())

    def test_an_empty_folder_is_filled(self, tmp_path):
        (tmp_path / "out").mkdir()
        self.convert(tmp_path)
        assert predictor.load(tmp_path / "out").arch == KERAS_V1


class TestClassLists:
    def read(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        return read_class_names([str(tmp_path / name)])

    def test_equal_names_are_told_apart_by_their_index(self):
        assert read_class_names(["crane", "dog", "crane"]) == ("crane (0)", "dog", "crane (2)")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.txt", b"\xef\xbb\xbfcat\r\n\r\ndog \n"),
            ("a.json", b'["cat", "dog"]'),
            ("a.json", b'\xef\xbb\xbf{"1": "dog", "0": "cat"}'),
            ("a.json", b'{"0": ["n02121808", "cat"], "1": ["n02084071", "dog"]}'),
        ],
    )
    def test_files_may_be_text_or_json_with_or_without_a_byte_order_mark(self, tmp_path, name, content):
        assert self.read(tmp_path, name, content) == ("cat", "dog")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.txt", b"\n \n", "holds no class names"),
            ("a.json", b"{", "is not JSON"),
            ("a.json", b'{"0": "cat", "2": "dog"}', "must map the indices 0 to 1 to names"),
            ("a.json", b'["cat", 3]', "holds 3, which is not a name"),
            ("a.txt", b"\xff", "cannot be read as text"),
        ],
    )
    def test_other_content_is_refused(self, tmp_path, name, content, message):
        with pytest.raises(UserError, match=message):
            self.read(tmp_path, name, content)
