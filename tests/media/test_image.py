"""Pictures of every kind are opened upright as 8-bit RGB, or refused with one line that names the file."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from jigsaw.errors import MediaError
from jigsaw.media.image import center_crop_box, image_size, open_rgb, tile_boxes

WIDTH, HEIGHT = 24, 16
LOSSLESS = {"png": {}, "tiff": {}, "webp": {"lossless": True}}

# What each EXIF orientation tells the viewer to do with the stored pixels, as array operations.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def noise(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth() -> np.ndarray:
    """Colours that survive JPEG: a ramp in x, one in y, no detail."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, np.full_like(x, 90)], axis=-1).astype(np.uint8)


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = value
    return exif


def png_with_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a picture of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def refused(path: Path, *words: str, opener=open_rgb) -> None:
    with pytest.raises(MediaError) as caught:
        opener(path)
    message = str(caught.value)
    assert message.count(str(path)) == 1
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("value", UPRIGHT)
@pytest.mark.parametrize("suffix", LOSSLESS)
def test_orientation_is_applied(tmp_path, suffix, value):
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(noise()).save(path, exif=orientation(value), **LOSSLESS[suffix])
    expected = UPRIGHT[value](noise())
    assert np.array_equal(np.asarray(open_rgb(path)), expected)
    assert image_size(path) == (expected.shape[1], expected.shape[0])


@pytest.mark.parametrize("value", UPRIGHT)
def test_orientation_of_a_jpeg(tmp_path, value):
    path = tmp_path / "turned.jpg"
    Image.fromarray(smooth()).save(path, exif=orientation(value), quality=100, subsampling=0)
    expected = UPRIGHT[value](smooth()).astype(int)
    assert np.abs(np.asarray(open_rgb(path)).astype(int) - expected).max() < 12
    assert image_size(path) == (expected.shape[1], expected.shape[0])


def test_orientation_behind_the_pixels_of_a_png(tmp_path):
    path = tmp_path / "late.png"
    Image.fromarray(noise()).save(path, exif=orientation(6))
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    iend = data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[end:iend] + data[start:end] + data[iend:])  # as exiftool writes it
    assert image_size(path) == open_rgb(path).size == (HEIGHT, WIDTH)


def test_the_header_of_a_png_is_read_without_its_pixels(tmp_path, monkeypatch):
    path = tmp_path / "plain.png"
    Image.fromarray(noise()).save(path)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    assert image_size(path) == (WIDTH, HEIGHT)


def test_alpha_is_laid_over_white(tmp_path):
    path = tmp_path / "alpha.png"
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 128, 255)  # black: clear, half, solid
    Image.fromarray(pixels).save(path)
    assert np.asarray(open_rgb(path))[0, :, 0].tolist() == [255, 127, 0]


def test_grey_with_alpha(tmp_path):
    path = tmp_path / "la.png"
    image = Image.new("LA", (2, 1), (100, 255))
    image.putpixel((1, 0), (100, 0))
    image.save(path)
    assert np.asarray(open_rgb(path)).tolist() == [[[100] * 3, [255] * 3]]


def test_palette(tmp_path):
    path = tmp_path / "palette.png"
    colours = Image.fromarray(noise()).quantize(16)
    colours.save(path)
    assert np.array_equal(np.asarray(open_rgb(path)), np.asarray(colours.convert("RGB")))


def test_palette_with_transparency(tmp_path):
    path = tmp_path / "palette.png"
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(path, transparency=0)
    assert np.asarray(open_rgb(path)).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_colour_that_stands_for_transparency(tmp_path):
    path = tmp_path / "key.png"
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (4, 5, 6))
    image.save(path, transparency=(1, 2, 3))
    assert np.asarray(open_rgb(path)).tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_cmyk_jpeg(tmp_path):
    path = tmp_path / "cmyk.jpg"
    Image.fromarray(smooth()).convert("CMYK").save(path, quality=100)
    assert np.abs(np.asarray(open_rgb(path)).astype(int) - smooth()).max() < 12


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(path)
    assert np.asarray(open_rgb(path))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_every_16_bit_grey_becomes_its_255_of_65535(tmp_path):
    """Rounded down, so that white alone is white; the upper byte would be another value for half of them."""
    values = np.arange(1 << 16).reshape(256, 256)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "all.png")
    assert np.array_equal(np.asarray(open_rgb(tmp_path / "all.png"))[..., 0], values * 255 // 65535)


@pytest.mark.parametrize("values", [[0, 65536], [-1, 5], [0, 2**31 - 1]])
def test_32_bit_grey_is_refused(tmp_path, values):
    path = tmp_path / "deep.tiff"
    Image.fromarray(np.array([values], np.int32)).save(path)
    refused(path, "has float/32-bit pixels; save it as 8 or 16 bits")


def test_32_bit_grey_of_16_bit_values_is_scaled(tmp_path):
    path = tmp_path / "deep.tiff"
    Image.fromarray(np.array([[0, 65535]], np.int32)).save(path)
    assert np.asarray(open_rgb(path))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("suffix", ["tiff", "pfm"])
@pytest.mark.parametrize("opener", [open_rgb, image_size])
def test_float_pixels_are_refused(tmp_path, suffix, opener):
    path = tmp_path / f"float.{suffix}"
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(path)
    refused(path, "has float/32-bit pixels; save it as 8 or 16 bits", opener=opener)


def test_16_bit_colour(tmp_path):
    path = tmp_path / "deep.png"
    pixels = np.array([[[0, 0x80FF, 0xFFFF]]], ">u2")
    data = png_with_header(1, 1)
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    body = zlib.compress(b"\0" + pixels.tobytes())
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    path.write_bytes(
        data[:8] + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    )
    assert np.asarray(open_rgb(path)).tolist() == [[[0, 0x80, 0xFF]]]


@pytest.mark.parametrize(("mode", "value", "expected"), [("L", 77, 77), ("1", 1, 255), ("1", 0, 0)])
def test_grey_and_one_bit(tmp_path, mode, value, expected):
    path = tmp_path / "grey.png"
    Image.new(mode, (5, 4), value).save(path)
    picture = open_rgb(path)
    assert picture.mode == "RGB"
    assert np.unique(picture).tolist() == [expected]


def test_lab_tiff(tmp_path):
    path = tmp_path / "lab.tiff"
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(Image.fromarray(smooth()), *profiles, outputMode="LAB").save(path)
    assert open_rgb(path).mode == "RGB"


def test_the_result_is_a_plain_image(tmp_path):
    path = tmp_path / "plain.jpg"
    Image.fromarray(smooth()).save(path)
    assert type(open_rgb(path)) is Image.Image


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff", "avif"])
@pytest.mark.parametrize("opener", [open_rgb, image_size])
def test_animations_are_refused(tmp_path, suffix, opener):
    path = tmp_path / f"moving.{suffix}"
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    refused(path, "animated", opener=opener)


def test_a_still_gif_works(tmp_path):
    path = tmp_path / "still.gif"
    Image.new("RGB", (5, 4), (255, 0, 0)).save(path)
    assert np.unique(np.asarray(open_rgb(path)).reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


def test_a_multi_picture_jpeg_is_its_first_picture(tmp_path):
    path = tmp_path / "phone.jpg"
    first = Image.fromarray(smooth())
    first.save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert image_size(path) == open_rgb(path).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("size", [(12_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("opener", [open_rgb, image_size])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused(tmp_path, size, opener):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_with_header(*size))
    assert path.stat().st_size < 200
    refused(path, "pixels", "scale it down", opener=opener)


@pytest.mark.parametrize(
    "content", [b"", b"no picture at all\n", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]
)
@pytest.mark.parametrize("opener", [open_rgb, image_size])
def test_what_is_no_picture_is_refused(tmp_path, content, opener):
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    refused(path, "remove or replace", opener=opener)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "bmp", "gif"])
def test_truncated_pictures_are_refused(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "remove or replace")


def test_the_header_of_a_truncated_jpeg_is_fine(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(noise(64, 48)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    assert image_size(path) == (48, 64)
    refused(path, "truncated")


def test_postscript_is_never_run(tmp_path):
    path = tmp_path / "script.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n")
    refused(path, "not a picture", opener=image_size)


def test_a_folder_and_a_missing_file(tmp_path):
    refused(tmp_path, "directory")
    refused(tmp_path / "none.jpg", "No such file")


def _sample(suffix: str, folder: Path) -> bytes:
    path = folder / f"sample.{suffix}"
    Image.fromarray(noise()).save(path, exif=orientation(6))
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "gif", "bmp", "jp2", "avif", "ppm"])
@pytest.mark.filterwarnings("ignore")
def test_damage_is_either_harmless_or_one_clear_line(tmp_path, suffix):
    """Bytes changed at random: a picture whose header and pixels agree, or a MediaError, never anything else."""
    whole = _sample(suffix, tmp_path)
    path = tmp_path / f"damaged.{suffix}"
    change = st.tuples(st.integers(0, min(len(whole), 400) - 1), st.integers(0, 255))

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(change, max_size=8), st.integers(0, len(whole)))
    def check(changes, length):
        data = bytearray(whole)
        for place, value in changes:
            data[place] = value
        path.write_bytes(data[: max(length, len(whole) // 2)])
        sizes, lines = set(), []
        for opener in (image_size, open_rgb):
            try:
                opened = opener(path)
            except MediaError as error:
                lines.append(str(error))
            else:
                sizes.add(opened if opener is image_size else opened.size)
        assert len(sizes) < 2
        assert "\n" not in "".join(lines)

    check()


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 12), st.integers(1, 12))
def test_tiles_cover_the_picture_once(width, height, rows, columns):
    width, height = max(width, columns), max(height, rows)
    boxes = tile_boxes((width, height), rows, columns)
    covered = np.zeros((height, width), int)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] += 1
    assert (covered == 1).all()
    widths, heights = ({box[2] - box[0] for box in boxes}, {box[3] - box[1] for box in boxes})
    assert max(widths) - min(widths) <= 1
    assert max(heights) - min(heights) <= 1
    assert min(widths | heights) >= 1
    assert boxes == sorted(boxes, key=lambda box: (box[1], box[0]))


def test_centre_crop():
    assert center_crop_box((10, 9), (4, 4)) == (3, 2, 7, 6)
