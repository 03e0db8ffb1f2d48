"""Weight files, valid, damaged and hostile: the last two are refused with one error, and no code in them is run."""

import json
import resource
import zipfile

import h5py
import jax
import numpy as np
import pytest
from conftest import mostly_slow
from safetensors.numpy import save_file

from cnnjax.convert import keras_file, load_weights
from cnnjax.errors import UserError
from tests.convert.published import (
    KERAS_V1,
    KERAS_V2,
    TORCH,
    keras_config,
    tensors_of,
    with_last_layer,
    write_keras,
    write_keras3_h5,
    write_legacy_h5,
    write_torch,
)


@pytest.fixture
def torch_tensors():
    return tensors_of(TORCH, "torchvision")


@pytest.fixture
def keras_tensors():
    return tensors_of(KERAS_V1, "keras")


def refused(arch, source, path) -> str:
    before = sorted(path.parent.iterdir())
    with pytest.raises(UserError) as error:
        load_weights(arch, source, path)
    assert "\n" not in str(error.value)
    assert sorted(path.parent.iterdir()) == before
    return str(error.value)


class TestKeras:
    @pytest.mark.parametrize("arch", mostly_slow([KERAS_V1, KERAS_V2], 1), ids=["v1", "v2"])
    def test_all_layouts_give_the_same_bits(self, arch, tmp_path):
        tensors = tensors_of(arch, "keras")
        write_keras3_h5(tmp_path / "a.weights.h5", tensors)
        paths = [
            write_legacy_h5(tmp_path / "a.h5", tensors), tmp_path / "a.weights.h5",
            write_keras(tmp_path / "b.keras", tensors), write_keras(tmp_path / "c.keras", tensors, named=False),
        ]  # fmt: skip
        first, *others = (load_weights(arch, "keras", path) for path in paths)
        for other in others:
            assert jax.tree.all(jax.tree.map(np.array_equal, first, other))

    def test_a_file_without_layer_names_is_refused(self, keras_tensors, tmp_path):
        write_keras3_h5(tmp_path / "a.weights.h5", keras_tensors, named=False)
        assert "does not name its layers" in refused(KERAS_V1, "keras", tmp_path / "a.weights.h5")

    @pytest.mark.parametrize("kind", ["soft", "external", "virtual", "external storage", "cycle", "second name"])
    def test_links_are_refused(self, kind, keras_tensors, tmp_path):
        path = write_legacy_h5(tmp_path / "a.h5", keras_tensors)
        place, layer = "predictions/predictions/bias:0", "predictions/predictions"
        secret = tmp_path / "secret.h5"
        with h5py.File(secret, "w") as file:
            file["x"] = np.zeros(5, np.float32)
        with h5py.File(path, "a") as file:
            if kind == "cycle":
                file[f"{layer}/again"] = file["predictions"]
            elif kind == "second name":
                file[f"{layer}/bias2:0"] = file[place]
            else:
                del file[place]
            if kind == "soft":
                file[place] = h5py.SoftLink("/conv1_conv/conv1_conv/bias:0")
            if kind == "external":
                file[place] = h5py.ExternalLink(str(secret), "x")
            if kind == "virtual":
                layout = h5py.VirtualLayout((5,), np.float32)
                layout[:] = h5py.VirtualSource(str(secret), "x", (5,))
                file.create_virtual_dataset(place, layout)
            if kind == "external storage":
                file.create_dataset(place, (5,), np.float32, external=[("/etc/hostname", 0, 20)])
        message = refused(KERAS_V1, "keras", path)
        assert any(reason in message for reason in ("links are not followed", "in another file", "a second link"))

    def test_a_terabyte_shape_is_refused_without_allocating(self, keras_tensors, tmp_path):
        path = write_legacy_h5(tmp_path / "a.h5", keras_tensors)
        with h5py.File(path, "a") as file:
            del file["predictions/predictions/kernel:0"]
            wide = file.create_dataset("predictions/predictions/kernel:0", (2**20, 2**18), "f4", chunks=(64, 64))
            wide[0, 0] = 1
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert "predictions/kernel is [1048576, 262144]" in refused(KERAS_V1, "keras", path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024

    def test_compressed_datasets_are_refused_before_reading(self, keras_tensors, tmp_path):
        path = write_legacy_h5(tmp_path / "a.h5", keras_tensors)
        with h5py.File(path, "a") as file:
            del file["predictions/predictions/bias:0"]
            options = {"maxshape": (None,), "chunks": (2**28,), "compression": "gzip"}
            file.create_dataset("predictions/predictions/bias:0", (5,), np.float32, **options)
        assert "predictions/predictions/bias:0 is compressed" in refused(KERAS_V1, "keras", path)

    def test_too_many_groups_are_refused(self, keras_tensors, tmp_path, monkeypatch):
        monkeypatch.setattr(keras_file, "MOST_OBJECTS", 20)
        path = write_legacy_h5(tmp_path / "a.h5", keras_tensors)
        assert "holds more than 20 groups and datasets" in refused(KERAS_V1, "keras", path)

    def test_unwritten_values_are_not_read_as_zeros(self, keras_tensors, tmp_path):
        path = write_legacy_h5(tmp_path / "a.h5", keras_tensors)
        with h5py.File(path, "a") as file:
            del file["predictions/predictions/bias:0"]
            file.create_dataset("predictions/predictions/bias:0", (5,), np.float32)
        assert "predictions/predictions/bias:0 were never written" in refused(KERAS_V1, "keras", path)

    def test_layer_names_that_are_lists_are_refused(self, keras_tensors, tmp_path):
        path = tmp_path / "a.weights.h5"
        write_keras3_h5(path, keras_tensors)
        with h5py.File(path, "a") as file:
            del file["layers/dense/vars"].attrs["name"]
            file["layers/dense/vars"].attrs["name"] = ["predictions"] * 100
        assert "does not name its layers, such as layers/dense" in refused(KERAS_V1, "keras", path)

    def test_weights_are_read_from_a_whole_model(self, keras_tensors, tmp_path):
        path = write_legacy_h5(tmp_path / "a.h5", keras_tensors)
        with h5py.File(path, "a") as file:
            whole = file.create_group("model_weights")
            for name in [name for name in file if name != "model_weights"]:
                file.move(name, f"model_weights/{name}")
            whole["conv1_conv"].attrs["weight_names"] = [b"x"]
            file["optimizer_weights/adam/step:0"] = 3
        assert load_weights(KERAS_V1, "keras", path).params

    def test_a_lambda_layer_is_not_run(self, keras_tensors, tmp_path):
        code = {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}
        config = with_last_layer(keras_config(keras_tensors), "Lambda", function=code)
        path = write_keras(tmp_path / "a.keras", keras_tensors, config=config)
        assert "layer 'last' (Lambda) comes after the dense layer 'predictions'" in refused(KERAS_V1, "keras", path)

    def test_invalid_archives_are_refused(self, keras_tensors, tmp_path):
        path = write_keras(tmp_path / "a.keras", keras_tensors)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}

        def rewritten(compression=zipfile.ZIP_DEFLATED, **changes):
            with zipfile.ZipFile(path, "w", compression) as archive:
                for name, data in {**members, **changes}.items():
                    if data is not None:
                        archive.writestr(name, data)
            return refused(KERAS_V1, "keras", path)

        assert "lacks model.weights.h5" in rewritten(**{"model.weights.h5": None})
        assert "is not an HDF5 file" in rewritten(**{"model.weights.h5": b"PK"})
        assert "the limit is" in rewritten(**{"model.weights.h5": bytes(2**28)})
        assert "uses an unsupported compression" in rewritten(zipfile.ZIP_LZMA)
        assert "damaged" in rewritten(**{"config.json": b"{"})
        assert "damaged" in rewritten(**{"config.json": b"[" * 100_000})
        assert "not one that Keras writes" in rewritten(**{"config.json": b'{"config": {"layers": [3]}}'})


class TestTorch:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_both_layouts_give_the_same_bits_as_safetensors(self, torch_tensors, zipped, tmp_path):
        save_file(torch_tensors, tmp_path / "a.safetensors")
        write_torch(tmp_path / "a.pth", torch_tensors, zipped)
        expected, actual = (load_weights(TORCH, "torchvision", tmp_path / f"a.{end}") for end in ("safetensors", "pth"))
        assert jax.tree.all(jax.tree.map(np.array_equal, expected, actual))

    def test_values_that_do_not_match_their_checksum_are_refused(self, torch_tensors, tmp_path):
        path = write_torch(tmp_path / "a.pth", torch_tensors)
        value = torch_tensors["conv1.weight"].tobytes()[:64]
        assert path.read_bytes().count(value) == 1
        path.write_bytes(path.read_bytes().replace(value, value[::-1]))
        assert "Bad CRC-32" in refused(TORCH, "torchvision", path)

    @pytest.mark.parametrize("order", [b"big", b""])
    def test_another_byte_order_is_refused(self, torch_tensors, order, tmp_path):
        path = write_torch(tmp_path / "a.pth", torch_tensors)
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
            for name in old.namelist():
                new.writestr(name, order if name.endswith("byteorder") else old.read(name))
        assert "another byte order" in refused(TORCH, "torchvision", tmp_path / "b.pth")

    def test_a_torchscript_program_is_named(self, tmp_path):
        path = tmp_path / "scripted.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("scripted/data.pkl", "scripted/constants.pkl", "scripted/code/__torch__.py"):
                archive.writestr(name, b"x" * 100)
        assert "is a TorchScript program, which is not run" in refused(TORCH, "torchvision", path)


class TestSafetensors:
    def write(self, path, tensors, change):
        save_file(tensors, path)
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        header = json.dumps(change(header)).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + body)
        return refused(TORCH, "torchvision", path)

    def test_an_extra_tensor_is_refused(self, torch_tensors, tmp_path):
        save_file({**torch_tensors, "extra": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
        message = refused(TORCH, "torchvision", tmp_path / "a.safetensors")
        assert "unexpected (1): extra [3]" in message

    def test_offsets_that_overlap_or_leave_the_file_are_refused(self, torch_tensors, tmp_path):
        def overlap(header):
            header["bn1.bias"]["data_offsets"] = header["bn1.weight"]["data_offsets"]
            return header

        def outside(header):
            last = max((name for name in header if name != "__metadata__"), key=lambda n: header[n]["data_offsets"][1])
            header[last]["data_offsets"][1] += 2**40
            return header

        for change in (overlap, outside):
            assert "damaged or not a safetensors file" in self.write(tmp_path / "a.safetensors", torch_tensors, change)

    @pytest.mark.many_inputs
    def test_a_header_of_200_megabytes_is_refused(self, torch_tensors, tmp_path):
        def longer(header):
            return {**header, "__metadata__": {"x": "y" * 200_000_000}}

        assert "is not a weight file" in self.write(tmp_path / "a.safetensors", torch_tensors, longer)


class TestDamage:
    @pytest.mark.parametrize("kind", ["safetensors", "pth", "old.pth", "h5", "keras"])
    def test_a_truncated_file_is_refused(self, kind, tmp_path):
        path, arch, source = tmp_path / f"a.{kind}", KERAS_V1, "keras"
        if kind == "safetensors":
            arch, source = TORCH, "torchvision"
            save_file(tensors_of(arch, source), path)
        elif kind.endswith("pth"):
            arch, source = TORCH, "torchvision"
            write_torch(path, tensors_of(arch, source), zipped=kind == "pth")
        elif kind == "h5":
            write_legacy_h5(path, tensors_of(arch, source))
        else:
            write_keras(path, tensors_of(arch, source))
        data = path.read_bytes()
        for length in (0, 1, 8, 9, 100, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:length])
            refused(arch, source, path)

    def test_other_files_are_refused(self, tmp_path):
        for name, data in {"text": b"weights", "png": b"\x89PNG\r\n\x1a\n0000", "json": b'{"a": 1}'}.items():
            (tmp_path / name).write_bytes(data)
            assert "is not a weight file" in refused(TORCH, "torchvision", tmp_path / name)
        assert "cannot be read" in refused(TORCH, "torchvision", tmp_path / "missing")
        assert "is not a regular file" in refused(TORCH, "torchvision", tmp_path)
