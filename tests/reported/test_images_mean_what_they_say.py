"""Transparency, depths, palettes, colour spaces and cameras: each number has the right value."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from vardiu.data.images import Corrupt, decode, to_tensor
from vardiu.data.sources import read_data


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


RAMP = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
WANTED = torch.from_numpy(RAMP)[None] * 2 - 1


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def values(data, shape=(1, 8, 8), **options):
    return to_tensor(decode(data, "a.image"), shape, **options)


# ---------------------------------------------------------------- transparency


def clear(mode, value):
    """An image that is wholly transparent, with a colour below."""
    if mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([9, 9, 9, value, value, value])
        image.info["transparency"] = 1
        return encoded(image, transparency=1)
    if mode in ("L", "RGB", "I;16"):
        image = Image.new(mode, (8, 8), value if mode != "RGB" else (value,) * 3)
        return encoded(image, transparency=value if mode != "RGB" else (value,) * 3)
    return encoded(Image.new(mode, (8, 8), (value,) * (len(mode) - 1) + (0,)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_what_is_transparent_shows_the_background_whatever_is_below(mode, value):
    for background, x in (("white", 1.0), ("black", -1.0), ("grey", 128 / 127.5 - 1)):
        for shape in ((1, 8, 8), (3, 4, 4)):
            found = values(clear(mode, value), shape, background=background)
            assert torch.allclose(found, torch.full(shape, x), atol=1e-6), (mode, background)


def png_of(bits, colour, pixels, clear):
    """A PNG of two pixels in the bits of the file, as Pillow does not write it."""

    def chunk(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, colour, 0, 0, 0))
    body = chunk(b"tRNS", clear) + chunk(b"IDAT", zlib.compress(b"\0" + pixels))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "colour", "pixels", "clear"),
    [
        (1, 0, b"\x40", struct.pack(">H", 0)),
        (2, 0, b"\x70", struct.pack(">H", 1)),
        (4, 0, b"\x5f", struct.pack(">H", 5)),
        (8, 0, b"\x05\xff", struct.pack(">H", 5)),
        (16, 0, b"\x12\x34\xff\xff", struct.pack(">H", 0x1234)),
        (8, 2, bytes([1, 2, 3, 255, 255, 255]), struct.pack(">3H", 1, 2, 3)),
        (16, 2, bytes(range(6)) + b"\xff" * 6, bytes(range(6))),
    ],
)
def test_the_transparent_colour_of_a_png_is_in_the_bits_of_its_file(bits, colour, pixels, clear):
    for background, x in (("black", -1.0), ("grey", 128 / 127.5 - 1)):
        data = png_of(bits, colour, pixels, clear)
        found = values(data, (1, 1, 2), background=background).flatten().tolist()
        assert found == pytest.approx([x, 1.0], abs=1e-6)


def test_half_transparent_is_half_of_each():
    data = encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 128)))
    red, green, _ = values(data, (3, 8, 8), background="black")[:, 0, 0]
    assert red.item() == pytest.approx(128 / 127.5 - 1, abs=0.01) and green == -1
    red, green, _ = values(data, (3, 8, 8))[:, 0, 0]
    assert red == 1 and green.item() == pytest.approx(127 / 127.5 - 1, abs=0.01)


def test_what_is_opaque_is_left_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    opaque = np.concatenate([pixels, np.full((8, 8, 1), 255, np.uint8)], -1)
    plain = values(encoded(Image.fromarray(pixels)), (3, 8, 8))
    assert torch.equal(values(encoded(Image.fromarray(opaque)), (3, 8, 8)), plain)


# ---------------------------------------------------------------- depths

DEEP = {
    "bytes": (Image.fromarray((RAMP * 255).round().astype(np.uint8)), "PNG", {}),
    "uint16 png": (Image.fromarray((RAMP * 65535).round().astype(np.uint16)), "PNG", {}),
    "uint16 tiff": (Image.fromarray((RAMP * 65535).round().astype(np.uint16)), "TIFF", {}),
    "float tiff": (Image.fromarray(RAMP), "TIFF", {}),
}


@pytest.mark.parametrize("name", DEEP)
def test_a_ramp_stays_the_ramp(name):
    image, kind, options = DEEP[name]
    data = encoded(image, kind, **options)
    assert torch.allclose(values(data), WANTED, atol=1 / 127.5 + 1e-6)
    grey = values(data, (3, 8, 8))
    assert grey.shape == (3, 8, 8) and torch.equal(grey[0], grey[2])
    small = values(data, (1, 4, 4))
    assert -1 <= small.min() < small.max() <= 1


def test_sixteen_bits_are_more_than_eight():
    fine = np.full((8, 8), 32_768 + 60, np.uint16)
    x = values(encoded(Image.fromarray(fine)))
    assert x[0, 0, 0].item() == pytest.approx((32_768 + 60) / 65_535 * 2 - 1, abs=1e-6)


@pytest.mark.parametrize("zero_is_white", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
def test_a_tiff_states_its_bits_and_which_end_is_white(zero_is_white, bits):
    image = Image.fromarray((RAMP * (2**bits - 1)).round().astype(np.uint16))
    image = decode(encoded(image, "TIFF"), "a")
    image.tag_v2[258], image.tag_v2[262] = (bits,), 0 if zero_is_white else 1
    wanted = -WANTED if zero_is_white else WANTED
    assert torch.allclose(to_tensor(image, (1, 8, 8)), wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        ((RAMP * 255).astype(np.int32), "32 bits or with a sign"),
        ((RAMP * 2e9).astype(np.int32), "32 bits or with a sign"),
        (RAMP * 255, "its floats reach from 0 to 255"),
        (RAMP * 2 - 1, "its floats reach from -1 to 1"),
        (RAMP * np.nan, "its floats reach"),
    ],
)
def test_what_nobody_states_the_white_of_is_refused_by_name(tmp_path, array, words):
    Image.fromarray(array).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match=f"deep.tif: .*{words}"):
        read_data(str(tmp_path), 1, shape=(1, 8, 8))


# ---------------------------------------------------------------- colours and cameras


def test_palettes_cmyk_and_ycbcr_are_colours():
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    wanted = values(encoded(red), (3, 8, 8))
    for mode, kind, options in (
        ("P", "PNG", {}),
        ("P", "GIF", {}),
        ("CMYK", "TIFF", {}),
        ("CMYK", "JPEG", {"quality": 100, "subsampling": 0}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "BMP", {}),
        ("RGB", "PPM", {}),
    ):
        found = values(encoded(red.convert(mode), kind, **options), (3, 8, 8))
        assert torch.allclose(found, wanted, atol=0.03), (mode, kind)
    assert values(encoded(Image.new("1", (8, 8), 1))).eq(1).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_camera_that_was_turned_is_turned_back(kind, turn):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:4, :8] = 255  # the upper left quarter
    turns = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: np.swapaxes(a, 0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
        8: np.rot90,
    }
    image = Image.fromarray(pixels)
    about = image.getexif()
    about[0x0112] = turn
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    found = decode(encoded(image, kind, exif=about, **options), "a")
    wanted = np.ascontiguousarray(turns[turn](pixels)).astype(float)
    assert np.abs(np.asarray(found.convert("RGB")).astype(float) - wanted).mean() < 8


def test_a_deep_image_is_turned_as_well():
    image = Image.fromarray((RAMP * 65535).round().astype(np.uint16))
    about = image.getexif()
    about[0x0112] = 3
    x = values(encoded(image, "PNG", exif=about))
    assert torch.allclose(x, WANTED.rot90(2, (1, 2)), atol=1e-3)


def test_of_several_frames_the_first_is_read():
    frames = [Image.new("RGB", (8, 8), c) for c in ((255, 0, 0), (0, 0, 255))]
    for kind in ("GIF", "TIFF", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert values(data, (3, 8, 8))[0].min() > 0.9, kind


def test_formats_that_start_programs_are_not_tried(monkeypatch):
    post = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    for name in ("EpsImagePlugin.Ghostscript",):
        monkeypatch.setattr(f"PIL.{name}", lambda *given: pytest.fail("it was started"))
    with pytest.raises(Corrupt, match=r"a.png: it is no image of a format that is read \(PNG"):
        decode(post, "a.png")
    for kind in ("TGA", "PCX", "ICO", "EPS"):
        with pytest.raises(Corrupt, match="no image of a format"):
            decode(encoded(Image.new("RGB", (16, 16)), kind), "a.png")


def claimed(width, height):
    """A small PNG whose header claims to be of another size."""
    data = bytearray(encoded(Image.new("1", (8, 8))))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize("size", [(9_500, 9_400), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_images_of_too_many_pixels_are_refused_before_they_are_unpacked(monkeypatch, size):
    data = claimed(*size)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was unpacked"))
    with pytest.raises(Corrupt, match=r"b.png: .*pixels"):
        decode(data, "b.png")
