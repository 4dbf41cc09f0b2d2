import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.fft import dctn

from jaxtl.audit.looks import MIRROR, measure, measure_all, perceptual_hash
from jaxtl.data.dataset import Dataset
from jaxtl.data.decode import ImageError


def differing(one, other):
    return (one ^ other).bit_count()


def test_the_hash_is_the_signs_of_the_lowest_frequencies():
    grey = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    lowest = dctn(grey.astype(float))[:8, :8].ravel()
    expected = sum(1 << k for k in range(1, 64) if lowest[k] > 0)
    assert perceptual_hash(grey) == expected


def test_a_mirrored_image_has_the_hash_with_known_bits_turned():
    grey = np.random.default_rng(1).integers(0, 256, (32, 32), dtype=np.uint8)
    assert perceptual_hash(grey[:, ::-1]) == perceptual_hash(grey) ^ int(MIRROR)
    assert int(MIRROR).bit_count() == 32


def test_another_size_compression_or_light_changes_few_bits_and_another_image_half(photograph, jpeg):
    image = photograph(0)
    own = measure(np.asarray(image)).hash
    for changed in (
        jpeg(image, quality=30),
        jpeg(image.resize((60, 45))),
        jpeg(ImageEnhance.Brightness(image).enhance(1.2)),
        jpeg(ImageEnhance.Contrast(image).enhance(0.7)),
        jpeg(image.convert("L")),
    ):
        assert differing(measure(changed).hash, own) <= 5
    assert differing(measure(jpeg(ImageOps.mirror(image))).hash, own ^ int(MIRROR)) <= 2
    assert all(differing(measure(jpeg(photograph(seed))).hash, own) >= 16 for seed in range(1, 9))


def test_digests_tell_the_same_file_from_the_same_pixels(photograph, tmp_path):
    image = photograph(0)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    first, second = (measure((tmp_path / name).read_bytes()) for name in ("a.png", "b.bmp"))
    assert first.file != second.file
    assert first.pixels == second.pixels
    assert first.size == (120, 90)


def test_light_contrast_and_sharpness(photograph, blurred):
    plain = measure(np.asarray(photograph(0)))
    assert measure(np.full((9, 9, 3), 255, np.uint8)).contrast == 0
    dark = measure((np.asarray(photograph(0)) // 5).astype(np.uint8))
    assert dark.bright == pytest.approx(plain.bright / 5, abs=0.01)
    assert measure(np.asarray(blurred(photograph(0)))).sharpness < plain.sharpness / 4
    # Large images are measured at a reduced size, so that more pixels are no blur.
    large = photograph(0).resize((1920, 1440), Image.Resampling.NEAREST)
    assert measure(np.asarray(large)).sharpness > plain.sharpness / 4


def test_what_cannot_be_read_is_told_by_index(photograph, jpeg):
    whole = jpeg(photograph(0))
    files = [whole, b"", b"no image", whole[:400]]
    dataset = Dataset(("a", "b"), np.zeros(4, np.int32), ("a", "b", "c", "d"), files.__getitem__)
    looks, broken = measure_all(dataset, workers=2)
    assert (list(looks), list(broken)) == ([0], [1, 2, 3])
    assert broken[2] == "c is no image that Pillow reads: it begins with 'no image'"
    with pytest.raises(ImageError):
        measure(b"")
