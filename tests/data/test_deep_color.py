"""Color images, and grayscale images with alpha, of 16 bits per channel."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnjax.config import Data
from cnnjax.data import load, read_image
from cnnjax.data.image_files import NoPictureError, decode_picture, read_header
from tests.data.test_image_folder import noise_images, write_folder

SAMPLES = np.random.default_rng(0).integers(0, 65536, (8, 6, 4), dtype=np.uint16)
GRAY_ALPHA, TRUE_COLOR, COLOR_ALPHA = 4, 2, 6
"""PNG's color types."""
RGB, CMYK = 2, 5
"""TIFF's photometric interpretations."""


def png16(samples, color, *, filtered=False, orientation=None, transparent=None) -> bytes:
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = [row.astype(">u2").tobytes() for row in samples]
    if filtered:  # each sample minus the one on its left
        width = 2 * samples.shape[2]
        rows = [
            bytes((byte - (row[i - width] if i >= width else 0)) % 256 for i, byte in enumerate(row)) for row in rows
        ]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, color, 0, 0, 0))]
    if transparent is not None:
        chunks.append((b"tRNS", np.array(transparent, ">u2").tobytes()))
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        chunks.append((b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(b"".join(bytes([filtered]) + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def tiff16(samples, order, *, compressed=False, photometric=RGB, planar=1) -> bytes:
    height, width, channels = samples.shape
    strip = samples.astype(f"{order}u2").tobytes()
    strip = zlib.compress(strip) if compressed else strip
    bits_at = 8 + len(strip)
    tags = {
        256: (3, 1, width), 257: (3, 1, height), 258: (3, channels, bits_at), 259: (3, 1, 8 if compressed else 1),
        262: (3, 1, photometric), 273: (4, 1, 8), 277: (3, 1, channels), 278: (3, 1, height),
        279: (4, 1, len(strip)), 284: (3, 1, planar),
    }  # fmt: skip
    if channels == 4 and photometric == RGB:
        tags[338] = (3, 1, 2)  # the last channel is alpha
    folder = struct.pack(f"{order}H", len(tags))
    for tag, (kind, count, value) in sorted(tags.items()):
        folder += struct.pack(f"{order}HHI", tag, kind, count)
        folder += struct.pack(f"{order}HH", value, 0) if (kind, count) == (3, 1) else struct.pack(f"{order}I", value)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", bits_at + 2 * channels)
    return header + strip + struct.pack(f"{order}{channels}H", *[16] * channels) + folder + bytes(4)


def ppm16(samples, white) -> bytes:
    return b"P6 %d %d %d\n" % (*samples.shape[1::-1], white) + samples.astype(">u2").tobytes()


COLORS = SAMPLES[..., :3]
FORMS = {
    "png": png16(COLORS, TRUE_COLOR),
    "filtered.png": png16(COLORS, TRUE_COLOR, filtered=True),
    "little.tiff": tiff16(COLORS, "<"),
    "big.tiff": tiff16(COLORS, ">"),
    "packed.tiff": tiff16(COLORS, "<", compressed=True),
    "packed.big.tiff": tiff16(COLORS, ">", compressed=True),
    "ppm": ppm16(COLORS, 65535),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_16_bits_of_color_samples_are_read(form):
    low = COLORS % 1024
    content = {
        "png": png16(low, TRUE_COLOR), "filtered.png": png16(low, TRUE_COLOR, filtered=True),
        "little.tiff": tiff16(low, "<"), "big.tiff": tiff16(low, ">"),
        "packed.tiff": tiff16(low, "<", compressed=True), "packed.big.tiff": tiff16(low, ">", compressed=True),
        "ppm": ppm16(low, 65535),
    }[form]  # fmt: skip
    picture = decode_picture(content, max_value=1023)
    assert (picture.image.mode, picture.gray, picture.largest) == ("RGB", False, low.max())
    assert np.array_equal(np.asarray(picture.image), low >> 2)
    assert np.array_equal(np.asarray(decode_picture(FORMS[form]).image), COLORS >> 8)
    assert read_header(io.BytesIO(content)) == ((6, 8), False)
    with pytest.raises(NoPictureError, match=r"values go up to 10\d\d; --data.max-value 511 is too low"):
        decode_picture(content, max_value=511)


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_alpha_is_composed_on_white(form):
    samples = SAMPLES.copy()
    samples[..., :3] %= 1024
    samples[:4, :, 3], samples[4:, :, 3] = 0, 65535
    content = png16(samples, COLOR_ALPHA) if form == "png" else tiff16(samples, "<")
    pixels = np.asarray(decode_picture(content, max_value=1023).image.convert("RGB"))
    assert (pixels[:4] == 255).all()
    assert np.array_equal(pixels[4:], samples[4:, :, :3] >> 2)


def test_grayscale_with_alpha_stays_grayscale():
    samples = SAMPLES[..., :2] % 4096
    samples[..., 1] = 65535
    content = png16(samples, GRAY_ALPHA, filtered=True)
    picture = decode_picture(content, max_value=4095)
    assert (picture.gray, picture.largest) == (True, samples[..., 0].max())
    assert np.array_equal(np.asarray(picture.image.convert("L")), samples[..., 0] >> 4)
    assert read_header(io.BytesIO(content)) == ((6, 8), True)


def test_a_transparent_color_becomes_white():
    samples = np.full((8, 6, 3), 600, np.uint16)
    samples[0, 0] = (600, 601, 602)
    pixels = np.asarray(decode_picture(png16(samples, TRUE_COLOR, transparent=(600, 601, 602))).image.convert("RGB"))
    assert (pixels[0, 0] == 255).all()
    assert (pixels[1:] == 600 >> 8).all()


def test_exif_rotation_is_applied():
    picture = decode_picture(png16(COLORS, TRUE_COLOR, orientation=6))
    assert np.array_equal(np.asarray(picture.image), np.rot90(COLORS, -1) >> 8)


def test_a_ppm_header_states_the_white_value():
    samples = COLORS % 1024
    picture = decode_picture(ppm16(samples, 1023))
    assert np.array_equal(np.asarray(picture.image), np.round(samples * (65535 / 1023)).astype(int) >> 8)


@pytest.mark.parametrize(
    "content",
    [
        b"P3 1 1 4095 1 2 3\n",
        tiff16(SAMPLES, "<", photometric=CMYK),
        tiff16(COLORS, "<", planar=2),
        tiff16(COLORS, "<", planar=2, compressed=True),
    ],
    ids=["text", "CMYK", "planar", "packed planar"],
)
def test_forms_that_cannot_be_read_with_16_bits_are_refused(content):
    with pytest.raises(NoPictureError, match="16 bits per channel .*; convert it to "):
        decode_picture(content)


@pytest.mark.parametrize("stream", ["never", "always"])
def test_the_largest_value_is_reported_and_can_be_made_white(tmp_path, stream):
    rng = np.random.default_rng(1)
    files = {}
    for name in noise_images():
        samples = rng.integers(0, 4096, (8, 6, 3), dtype=np.uint16)
        samples[4, 3] = 4095
        files[name] = png16(samples, TRUE_COLOR)
    place = write_folder(tmp_path / "images", files)
    config = Data(source="image_folder", dir=str(place), validation=0.2, size=6, stream=stream)
    advice = "the largest value seen is 4,095; if they have 12 bits, give --data.max-value 4095"
    assert any(advice in notice for notice in load(config).notices)
    bright = load(config.replace(max_value=4095))
    assert bright.train.read(np.arange(8)).max() == 255
    name = bright.names["train"][0]
    assert np.array_equal(read_image(str(place / name), bright.preprocessing), bright.train.read(np.arange(1))[0])
