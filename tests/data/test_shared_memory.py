import gc

import numpy as np
import pytest

from jaxtl.data import shared_memory
from jaxtl.data.shared_memory import PixelStore, Place, SharedFile, find

pytestmark = pytest.mark.skipif(not shared_memory.available(), reason="this system has no memfd_create")


def test_pixels_are_found_where_they_lie():
    store = PixelStore(100)
    first = store.keep(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    second = store.keep(np.full((3, 1, 3), 7, np.uint8))
    assert first.tolist() == np.arange(12).reshape(2, 2, 3).tolist()
    place, file = find(second)
    assert (place, file) == (Place(store.file.number, 12, (3, 1, 3)), store.file)
    assert bytes(file.map[12:21]) == bytes([7] * 9)


def test_what_lies_elsewhere_is_not_found():
    store = PixelStore(100)
    kept = store.keep(np.zeros((4, 4, 3), np.uint8))
    assert find(np.zeros(3, np.uint8)) is None
    assert find(kept[:, ::2]) is None
    assert find(kept.astype(np.int32)) is None


def test_without_room_an_image_stays_an_ordinary_array():
    store = PixelStore(10)
    pixels = np.zeros((2, 2, 3), np.uint8)
    assert store.keep(pixels) is pixels
    for size in (0, 2**62):
        assert PixelStore(size).keep(pixels) is pixels


def test_the_file_goes_with_its_last_holder():
    store = PixelStore(100)
    kept = store.keep(np.ones((2, 2, 3), np.uint8))
    del store
    gc.collect()
    assert find(kept) is None
    assert kept.sum() == 12


def test_a_file_grows():
    file = SharedFile(1)
    file.resize(5)
    file.map[:5] = b"abcde"
    assert file.map[:5] == b"abcde"
