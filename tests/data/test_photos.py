"""Photos that are decoded during training."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import fit_run, mostly_slow
from PIL import Image

from cnnjax import checkpoint, create, data
from cnnjax.config import Augmentation, Data, Experiment, Train
from cnnjax.data import decoding, image_folder, photo_index, photos
from cnnjax.data.folder_layout import open_files
from cnnjax.data.image_files import decode_picture, read_header
from cnnjax.data.image_folder import Options, load_image_folder, square
from cnnjax.data.loader import Crops, make_loader
from cnnjax.errors import Interrupted, UserError
from cnnjax.functional import abstract_variables
from cnnjax.parallel import current_placement
from cnnjax.runs.folder import RunFolder

SIZE = 16
ALWAYS, NEVER = (Options(square(SIZE), stream=stream) for stream in ("always", "never"))


def photo(rng, *, sideways=False, mode="RGB", form="JPEG") -> bytes:
    """Return a smooth image of random size."""
    width, height = rng.integers(20, 90, 2).tolist()
    pixels = rng.integers(0, 256, (5, 4, 3), np.uint8)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    if sideways:
        exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, form, exif=exif)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for index in range(count):
                content = photo(rng, sideways=index % 3 == 0, mode="L" if index == 1 else "RGB")
                (tmp_path / "photos" / part / name / f"{index}.jpg").write_bytes(content)
    return tmp_path / "photos"


@pytest.fixture
def experiment(folder):
    return Experiment(
        model=create("lenet", num_classes=2, input_size=SIZE, channels=3),
        data=Data(source="image_folder", dir=str(folder), size=SIZE, validation=0.2, stream="always"),
        augmentation=Augmentation(crop_area=0.3, flip=True),
        train=Train(epochs=2, batch_size=4, eval_batch_size=7),
    )


def test_streamed_photos_equal_the_decoded_ones(folder):
    streamed, decoded = (load_image_folder(folder, options) for options in (ALWAYS, NEVER))
    assert streamed.names == decoded.names
    assert (streamed.mean, streamed.std) == (decoded.mean, decoded.std)
    for part, source in decoded.parts.items():
        indices = np.random.default_rng(0).permutation(len(source.labels))
        assert np.array_equal(streamed.parts[part].labels, source.labels)
        assert np.array_equal(streamed.parts[part].read(indices), source.read(indices))
        assert np.array_equal(streamed.parts[part].take(indices[:3]).read(np.arange(3)), source.read(indices[:3]))


def test_crops_come_from_the_upright_photo(folder):
    source = load_image_folder(folder, ALWAYS).parts["train"]
    indices = np.arange(len(source.labels))[::-1]
    boxes = Crops(0, 0, 0.5).boxes(source, indices)
    for index, (top, left, height, width), pixels in zip(
        indices, boxes.tolist(), source.read_crops(indices, boxes), strict=True
    ):
        with Image.open(folder / source.names[index]) as image:
            upright = image.transpose(Image.Transpose.ROTATE_270) if image.getexif().get(0x0112) == 6 else image
            assert upright.size == tuple(source.sizes[index][::-1])
            box = (left, top, left + width, top + height)
            expected = upright.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
        assert np.abs(np.asarray(expected).astype(int) - pixels).mean() < 6  # JPEG is decoded at half its size
        if min(height, width) < 2 * SIZE:
            assert np.array_equal(expected, pixels)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_does_not_matter(folder, threads, monkeypatch):
    source = load_image_folder(folder, ALWAYS).parts["train"]
    indices = np.arange(len(source.labels))
    expected = source.read(indices)
    pool = decoding.ThreadPool(threads)
    monkeypatch.setattr(decoding, "decoders", lambda: pool)
    assert np.array_equal(source.read(indices), expected)
    pool.terminate()


@pytest.mark.compiles_large
def test_resident_and_streamed_images_have_the_same_crops(folder):
    """For photos of the network's size, the device and the decoding threads cut the same crops."""
    for path in folder.glob("*/*/*.jpg"):
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((SIZE, SIZE))
        resized.save(path.with_suffix(".png"))
        path.unlink()
    order, crops = np.arange(24, dtype=np.int32)[::-1].copy(), Crops(1, 2, 0.2)
    chunks = {}
    for options in (ALWAYS, NEVER):
        loader = make_loader(load_image_folder(folder, options).parts["train"], 8, 1, current_placement())
        chunks[options.stream] = list(loader.epoch(order, 0, 3, crops))
    for step, (streamed, resident) in enumerate(zip(*chunks.values(), strict=True)):
        picked = resident.order[8 * step : 8 * step + 8]
        cropped = data.resize_boxes(resident.data.images[picked], resident.boxes[8 * step : 8 * step + 8])
        difference = np.asarray(cropped).astype(int) - np.asarray(streamed.data.images).astype(int)
        assert streamed.boxes is None
        assert abs(difference).max() <= 1


def final_params(experiment, folder, progress, *hooks):
    run = RunFolder(folder)
    run.start(folder.name, experiment)
    fit_run(experiment, run, progress, *hooks)
    like = abstract_variables(experiment.model)._asdict()
    newest = checkpoint.open_checkpoint(sorted(run.checkpoints.glob("step-*"))[-1])
    return checkpoint.restore(newest, "variables", like)


@pytest.mark.parametrize("stream", mostly_slow(["always", "never"], 0, pytest.mark.trains_long))
def test_a_run_on_crops_resumes_to_the_same_bits(experiment, tmp_path, progress, stream):
    experiment = experiment.replace(data=experiment.data.replace(stream=stream))
    whole = final_params(experiment, tmp_path / "whole", progress)
    calls = iter(range(100))

    def interrupt():
        if next(calls) == 2:
            raise Interrupted("stop")

    run = RunFolder(tmp_path / "parts")
    run.start("parts", experiment)
    with pytest.raises(Interrupted):
        fit_run(experiment, run, progress, poll=interrupt)
    parts = final_params(experiment, tmp_path / "parts", progress)
    assert jax.tree.all(jax.tree.map(np.array_equal, whole, parts))


def test_damage_after_the_header_is_one_error(folder, monkeypatch):
    path = folder / "train/dog/3.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    monkeypatch.setattr(image_folder, "SAMPLED_PIXELS", 2)
    train = load_image_folder(folder, ALWAYS).parts["train"]
    with pytest.raises(UserError, match=r"photos/train/dog/3.jpg cannot be read as an image \(.*\); replace or remove"):
        train.read(np.arange(len(train.labels)))


def test_damaged_photos_are_skipped_on_request(folder):
    (folder / "train/dog/3.jpg").write_bytes((folder / "train/dog/3.jpg").read_bytes()[:-200])
    (folder / "train/cat/0.jpg").write_bytes(b"")
    loaded = load_image_folder(folder, ALWAYS._replace(skip_damaged=True))
    assert len(loaded.parts["train"].labels) == 22
    assert "train/dog/3.jpg" not in loaded.names["train"]
    assert any(
        "2 damaged files" in notice and "train/cat/0.jpg, train/dog/3.jpg" in notice for notice in loaded.notices
    )
    with pytest.raises(UserError, match="cat/0.jpg cannot be read as an image"):
        load_image_folder(folder, ALWAYS)


def test_a_photo_that_cannot_be_read_in_time_ends_the_training(folder, monkeypatch):
    source = load_image_folder(folder, ALWAYS).parts["train"]
    slow = source.names[2]

    def read(name):
        if name == slow:
            time.sleep(1)
        return (folder / name).read_bytes()

    source.files = source.files._replace(read=read)
    monkeypatch.setattr(decoding, "WAIT_SECONDS", 0.2)
    with pytest.raises(UserError, match=rf"{slow} was not read and decoded within 0 s; check the disk"):
        source.read(np.arange(4))


def test_a_hanging_thread_does_not_block_the_exit(folder):
    code = (
        "import sys, threading\n"
        "from cnnjax.data import decoding\n"
        "decoding.WAIT_SECONDS = 0.2\n"
        "decoding.decode_all(lambda index: threading.Event().wait(), range(3), str)\n"
    )
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "UserError: 0 was not read and decoded" in ended.stderr
    assert time.monotonic() - started < 30


def test_the_index_is_read_from_the_cache_until_a_file_changes(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    built = []
    build = photo_index.build_index
    monkeypatch.setattr(photo_index, "build_index", lambda *args: built.append(1) or build(*args))
    first = load_image_folder(folder, ALWAYS)
    again = load_image_folder(folder, ALWAYS)
    assert len(built) == 1
    assert first.fingerprint == again.fingerprint
    assert np.array_equal(first.parts["train"].sizes, again.parts["train"].sizes)
    os.utime(folder / "train/cat/0.jpg", (1, 1))
    load_image_folder(folder, ALWAYS)
    assert len(built) == 2
    for cached in (tmp_path / "cache/photos").glob("*.npz"):
        cached.write_bytes(cached.read_bytes()[:-20])
    assert load_image_folder(folder, ALWAYS).fingerprint == first.fingerprint
    assert len(built) == 3


def test_the_fingerprint_covers_names_sizes_labels_and_sampled_contents(folder, monkeypatch):
    fingerprints = [load_image_folder(folder, ALWAYS).fingerprint]
    path = folder / "train/cat/5.jpg"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"JFIF", b"JFIf"))
    fingerprints.append(load_image_folder(folder, ALWAYS).fingerprint)
    path.write_bytes(content + b"x")
    fingerprints.append(load_image_folder(folder, ALWAYS).fingerprint)
    path.write_bytes(content)
    path.rename(folder / "train/cat/5b.jpg")
    fingerprints.append(load_image_folder(folder, ALWAYS).fingerprint)
    (folder / "train/cat/5b.jpg").rename(path)
    assert load_image_folder(folder, ALWAYS).fingerprint == fingerprints[0]
    assert len(set(fingerprints)) == 4
    monkeypatch.setattr(photos, "SAMPLED_CONTENTS", 2)
    assert load_image_folder(folder, ALWAYS).fingerprint not in fingerprints


def test_large_folders_are_streamed(folder, monkeypatch):
    def streamed(options):
        return isinstance(load_image_folder(folder, options).parts["train"], photos.Photos)

    auto = Options(square(SIZE))
    assert not streamed(auto)
    monkeypatch.setattr(image_folder, "STREAMED_BYTES", 32 * SIZE * SIZE * 3 - 1)
    assert streamed(auto)
    assert not streamed(NEVER)
    with pytest.raises(UserError, match=r"data.stream is 'always' and data.size is not given; give the size in pixels"):
        load_image_folder(folder, Options(stream="always"))


def test_the_first_frame_of_animated_and_stereo_photos_is_read(tmp_path):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize((50, 40)) for _ in range(3)]
    frames[0].save(tmp_path / "animated.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "stereo.jpg", "MPO", save_all=True, append_images=frames[1:], quality=95)
    for name in ("animated.gif", "stereo.jpg"):
        picture = decode_picture((tmp_path / name).read_bytes())
        assert picture.image.size == (50, 40)
        found = np.asarray(picture.image.convert("RGB")).astype(int)
        errors = [np.abs(np.asarray(frame).astype(int) - found).mean() for frame in frames]
        assert errors[0] < 12 < min(errors[1:])
        assert read_header(io.BytesIO((tmp_path / name).read_bytes()))[0] == (50, 40)


def test_photos_with_file_names_in_any_encoding_are_streamed_and_recorded(folder, tmp_path):
    path = os.fsencode(folder / "train/cat/0.jpg")
    Path(os.fsdecode(path)).rename(os.fsdecode(path.replace(b"0.jpg", b"caf\xe9.jpg")))
    config = Data(source="image_folder", dir=str(folder), size=SIZE, validation=0.2, stream="always")
    dataset = data.load(config)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.record_files(dataset.names)
    names = run.read_files()
    assert names == {part: list(paths) for part, paths in dataset.names.items()}
    assert any(os.fsencode(name).endswith(b"caf\xe9.jpg") for part in names.values() for name in part)
    assert data.load(config, recorded=names).split_hash == dataset.split_hash


def test_the_index_of_a_directory_reads_only_headers(folder):
    def fail(name):
        raise AssertionError(f"{name} was read as a whole")

    with open_files(folder) as files:
        names = [name for name in files.names if name.endswith(".jpg")]
        index = photo_index.build_index(files._replace(read=fail), names)
    assert index.usable.all()
    assert not index.damaged
