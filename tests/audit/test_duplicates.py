import numpy as np
import pytest
from PIL import ImageEnhance, ImageOps

from jaxtl.audit.duplicates import Pair, close_hashes, find_pairs, group_pairs
from jaxtl.audit.looks import measure


@pytest.mark.parametrize("bits", [0, 3, 9])
@pytest.mark.parametrize("seed", range(3))
def test_close_hashes_are_those_that_a_comparison_of_all_finds(bits, seed):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**63, 300, dtype=np.uint64)
    # Some differ from others in a few bits, wherever these lie.
    for i in range(100):
        for bit in rng.choice(64, rng.integers(0, 12), replace=False):
            hashes[i] ^= np.uint64(1) << np.uint64(bit)
        hashes[200 + i] = hashes[i] ^ (np.uint64(1) << np.uint64(rng.integers(64)))
    queries = hashes[:250]
    expected = np.nonzero(np.bitwise_count(queries[:, None] ^ hashes) <= bits)
    found = close_hashes(queries, hashes, bits)
    assert set(zip(*map(np.ndarray.tolist, found), strict=True)) == set(
        zip(*map(np.ndarray.tolist, expected), strict=True)
    )
    assert len(found[0]) == len(expected[0])


def test_of_no_hashes_there_are_no_pairs():
    none = np.zeros(0, np.uint64)
    assert [len(found) for found in close_hashes(none, none, 4)] == [0, 0]
    assert find_pairs({}) == []


def test_each_pair_has_its_strongest_sign(photograph, jpeg):
    image = photograph(0)
    files = [
        jpeg(image),
        jpeg(image),
        np.asarray(image),
        np.asarray(image.convert("RGBA")),
        jpeg(ImageEnhance.Brightness(image).enhance(0.8).resize((90, 68)), quality=60),
        jpeg(ImageOps.mirror(image)),
        jpeg(photograph(1)),
        np.zeros((40, 40, 3), np.uint8),
        np.full((40, 40, 3), 9, np.uint8),
    ]
    looks = {i: measure(encoded) for i, encoded in enumerate(files)}
    pairs = {(pair.first, pair.second): pair for pair in find_pairs(looks)}
    assert {key for key in pairs if max(key) < 6} == {(i, j) for i in range(6) for j in range(i + 1, 6)}
    assert all(max(key) < 6 for key in pairs)  # Neither another image, nor one blank image with another.
    assert pairs[0, 1] == Pair(0, 1, "file", "the same file")
    assert pairs[2, 3] == Pair(2, 3, "pixels", "the same pixels in another file")
    assert pairs[0, 4].kind == "near"
    assert pairs[0, 5].detail.endswith("of 63 bits of the hash differ, mirrored")


def test_features_join_what_hashes_do_not(photograph, jpeg):
    looks = {i: measure(jpeg(photograph(i))) for i in range(30)}
    features = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32) + 100
    features[7] = features[3] + 0.01
    assert find_pairs(looks, features) == [Pair(3, 7, "features", "cosine 1.000 of features")]


def test_groups_are_what_pairs_join():
    pairs = [Pair(4, 1, "near", ""), Pair(1, 7, "near", ""), Pair(2, 3, "file", "")]
    assert [group.tolist() for group in group_pairs(pairs, 9)] == [[1, 4, 7], [2, 3]]
    assert group_pairs([], 9) == []
