import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxtl.data.decode import ImageError, decode, eval_view, formats, identify, size
from jaxtl.preprocessing import Pixels


def encode(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def smooth(width: int, height: int) -> Image.Image:
    """A picture without symmetries that lossy formats keep to a few levels."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((255 * np.stack([x, y, (x + y * y) / 2], axis=-1)).astype(np.uint8))


def pixels(size: int, resize: int, interpolation: str = "bicubic") -> Pixels:
    return Pixels(size, resize, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), interpolation)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG", "AVIF", "JPEG2000", "PPM"])
def test_decodes_every_usual_format(format):
    image = smooth(40, 30)
    decoded = decode(encode(image, format))
    assert decoded.mode == "RGB"
    assert decoded.size == (40, 30)
    # GIF has 256 colours; the others are lossless or nearly so.
    np.testing.assert_allclose(np.asarray(decoded, float), np.asarray(image, float), atol=48 if format == "GIF" else 16)


def test_grey_palette_and_bilevel():
    grey = smooth(8, 6).convert("L")
    np.testing.assert_array_equal(np.asarray(decode(encode(grey, "PNG"))), np.asarray(grey.convert("RGB")))
    palette = smooth(8, 6).convert("P")
    np.testing.assert_array_equal(np.asarray(decode(encode(palette, "PNG"))), np.asarray(palette.convert("RGB")))
    bilevel = Image.fromarray(np.eye(5, dtype=bool))
    np.testing.assert_array_equal(np.asarray(decode(encode(bilevel, "PNG")))[..., 0], 255 * np.eye(5, dtype=np.uint8))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_upper_8_bits(format):
    levels = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    decoded = np.asarray(decode(encode(Image.fromarray(levels), format)))
    np.testing.assert_array_equal(decoded[..., 1], [[0, 0, 1], [128, 255, 255]])


def test_cmyk_jpeg():
    colours = {(0, 0, 0, 0): (255, 255, 255), (0, 255, 255, 0): (255, 0, 0), (0, 0, 0, 255): (0, 0, 0)}
    for cmyk, rgb in colours.items():
        decoded = decode(encode(Image.new("CMYK", (16, 16), cmyk), "JPEG", quality=95))
        np.testing.assert_allclose(np.asarray(decoded, float)[8, 8], rgb, atol=3)


def test_transparency_is_laid_over_white():
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], np.uint8)
    expected = [[200, 0, 0], [255, 255, 255], [244, 204, 204]]
    np.testing.assert_array_equal(np.asarray(decode(encode(Image.fromarray(rgba), "PNG")))[0], expected)
    np.testing.assert_array_equal(np.asarray(decode(rgba))[0], expected)


def test_palette_grey_and_rgb_with_a_transparent_colour():
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.putdata([0, 1, 2])
    opaque = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    one = np.asarray(decode(encode(palette, "PNG", transparency=1)))[0].tolist()
    assert one == [opaque[0], [255, 255, 255], opaque[2]]
    # One alpha for each colour of the palette.
    several = np.asarray(decode(encode(palette, "PNG", transparency=bytes([255, 0, 255]))))[0].tolist()
    assert several == [opaque[0], [255, 255, 255], opaque[2]]
    gif = np.asarray(decode(encode(palette, "GIF", transparency=2)))[0].tolist()
    assert gif == [opaque[0], opaque[1], [255, 255, 255]]
    grey = encode(Image.fromarray(np.array([[5, 6]], np.uint8)), "PNG", transparency=6)
    assert np.asarray(decode(grey))[0].tolist() == [[5, 5, 5], [255, 255, 255]]
    rgb = encode(Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)), "PNG", transparency=(4, 5, 6))
    assert np.asarray(decode(rgb))[0].tolist() == [[1, 2, 3], [255, 255, 255]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    image = smooth(40, 24)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for format in ("PNG", "JPEG", "WEBP"):
        encoded = encode(image, format, exif=exif)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
        np.testing.assert_array_equal(np.asarray(decode(encoded)), np.asarray(upright.convert("RGB")))
        assert size(encoded) == upright.size


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_cost_the_picture():
    image = smooth(16, 16)
    encoded = encode(image, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert decode(encoded).size == (16, 16)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        encoded = encode(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
        assert np.asarray(decode(encoded))[0, 0].tolist() == [255, 0, 0]


def test_arrays():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    expected = np.repeat(grey[..., None], 3, axis=-1)
    np.testing.assert_array_equal(np.asarray(decode(grey)), expected)
    np.testing.assert_array_equal(np.asarray(decode(grey[..., None])), expected)
    np.testing.assert_array_equal(np.asarray(decode(expected[:, ::-1])), expected[:, ::-1])
    assert size(expected) == (4, 3)
    with pytest.raises(ImageError, match=r"x is float64 \[2, 2, 3\]; expected uint8"):
        decode(np.zeros((2, 2, 3)), "x")
    with pytest.raises(ImageError, match=r"uint8 \[2, 2, 2\]"):
        decode(np.zeros((2, 2, 2), np.uint8))


def test_broken_files_are_named():
    jpeg = encode(smooth(640, 480), "JPEG")
    png = encode(smooth(64, 64), "PNG")
    for broken, reason in [
        (b"", "is empty .0 bytes."),
        (b"hello, I am a text file", "is no image that Pillow reads: it begins with 'hello, I am '"),
        (b"<!DOCTYPE html><html>404</html>", "is no image that Pillow reads"),
        (jpeg[: len(jpeg) // 2], "cannot be decoded: .*truncated"),
        (png[: len(png) // 2], "cannot be decoded"),
        (jpeg[:3], "is no image that Pillow reads|cannot be decoded"),
        (png[:40] + bytes(200) + png[240:], "cannot be decoded|is no image"),
        (encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "has F pixels"),
    ]:
        with pytest.raises(ImageError, match=f"^daisy/7.jpg ({reason})"):
            decode(broken, "daisy/7.jpg")


def test_a_truncated_file_still_has_a_header():
    jpeg = encode(smooth(640, 480), "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        identify(jpeg[: len(jpeg) // 2])
    identify(jpeg + b"notes of a camera" * 100)  # Its end is not where it is looked for first.
    assert size(jpeg[: len(jpeg) // 2]) == (640, 480)
    with pytest.raises(ImageError, match="no image"):
        identify(b"text", "a.jpg")


def test_decompression_bomb_is_refused():
    # Its header says 20,000 x 20,000 pixels; the pixels themselves, which take seconds to pack, are not reached.
    small = encode(Image.new("1", (1, 1)), "PNG")
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + small[24:29]
    bomb = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    with pytest.raises(ImageError, match=r"bomb.png cannot be decoded: .*decompression bomb"):
        decode(bomb, "bomb.png")


def test_thin_images_are_refused():
    assert decode(encode(Image.new("L", (200, 1)), "PNG")).size == (200, 1)
    with pytest.raises(ImageError, match=r"a.png has 1 x 201 pixels, too thin for a square"):
        decode(encode(Image.new("L", (1, 201)), "PNG"), "a.png")


def test_no_other_program_is_started_for_an_image():
    assert "EPS" not in formats()
    with pytest.raises(ImageError, match="is no image that Pillow reads"):
        decode(encode(smooth(8, 8), "EPS"), "a.eps")


def test_reduced_decoding_of_large_jpegs():
    photograph = smooth(400, 300)
    jpeg = encode(photograph, "JPEG", quality=95)
    for min_side, expected in [(0, (400, 300)), (151, (400, 300)), (150, (200, 150)), (75, (100, 75)), (1, (50, 38))]:
        assert decode(jpeg, min_side=min_side).size == size(jpeg, min_side=min_side) == expected
    half = np.asarray(decode(jpeg, min_side=150), float)
    np.testing.assert_allclose(half, np.asarray(photograph.resize((200, 150), Image.Resampling.BOX), float), atol=4)
    assert decode(encode(photograph, "PNG"), min_side=75).size == (400, 300)


def test_eval_view_sizes_and_offsets():
    # The shorter side becomes 256, the longer int(256 * 500 / 375) = 341; offsets round(117 / 2) = 58 and 16.
    photograph = smooth(500, 375)
    expected = photograph.resize((341, 256), Image.Resampling.BICUBIC).crop((58, 16, 58 + 224, 16 + 224))
    np.testing.assert_array_equal(eval_view(photograph, pixels(224, 256)), np.asarray(expected))
    upright = photograph.transpose(Image.Transpose.TRANSPOSE)
    expected = upright.resize((256, 341), Image.Resampling.BICUBIC).crop((16, 58, 16 + 224, 58 + 224))
    np.testing.assert_array_equal(eval_view(upright, pixels(224, 256)), np.asarray(expected))


def test_eval_view_leaves_a_fitting_image_as_it_is():
    image = smooth(32, 32)
    np.testing.assert_array_equal(eval_view(image, pixels(32, 32)), np.asarray(image))
    # An odd margin of 3 pixels: round(1.5) = 2.
    np.testing.assert_array_equal(eval_view(image, pixels(29, 32)), np.asarray(image)[2:31, 2:31])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_eval_view_is_square_for_every_shape(interpolation):
    rng = np.random.default_rng(0)
    for _ in range(25):
        width, height = rng.integers(1, 90, size=2).tolist()
        view = eval_view(smooth(width, height), pixels(24, int(rng.integers(24, 40)), interpolation))
        assert view.shape == (24, 24, 3)
        assert view.dtype == np.uint8


def test_real_photographs_decode(shared):
    files = sorted((shared / "datasets/oxford_flowers12/test").glob("*/*.jpg"))[::24]
    for file in files:
        image = decode(file.read_bytes(), file.name)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(file).convert("RGB")))
        assert size(file.read_bytes()) == (224, 224)
