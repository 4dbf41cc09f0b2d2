import dataclasses
import io
import os
import threading

import numpy as np
import pytest
from PIL import Image

from jaxtl.data import preloading
from jaxtl.data.dataset import Dataset
from jaxtl.data.decode import decode
from jaxtl.data.preloading import BrokenImages, attempt_all, check, cores, find_broken, preload
from jaxtl.errors import UserError


def jpegs(count: int, width: int = 40, height: int = 30) -> list[bytes]:
    files = []
    for i in range(count):
        file = io.BytesIO()
        noise = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def dataset(files: list[bytes]) -> tuple[Dataset, list[int]]:
    reads: list[int] = []

    def read(i: int) -> bytes:
        reads.append(i)
        return files[i]

    return Dataset(
        ("a", "b"), np.zeros(len(files), np.int32), tuple(f"{i}.jpg" for i in range(len(files))), read
    ), reads


def test_images_that_fit_are_decoded_once():
    files = jpegs(70)
    data, reads = dataset(files)
    kept = preload(data, budget_bytes=70 * 40 * 30 * 3)
    assert kept.names == data.names
    reads.clear()
    for i in (0, 33, 69, 33):
        np.testing.assert_array_equal(kept.read(i), np.asarray(decode(files[i])))
    assert reads == []


def test_a_host_decodes_its_share_now_and_another_image_once_when_it_is_asked_for():
    files = jpegs(100)
    data, reads = dataset(files)
    own = np.array([99, 3, 41])
    kept = preload(data, budget_bytes=100 * 40 * 30 * 3, own=own)
    assert set(reads) == {3, 41, 99}
    reads.clear()
    for i in (3, 41, 99, 7, 7, 8):
        np.testing.assert_array_equal(kept.read(i), np.asarray(decode(files[i])))
    assert reads == [7, 8]


def test_what_is_asked_for_later_is_kept_as_long_as_there_is_room():
    files = [*jpegs(2, 8, 6), *jpegs(2)]
    data, reads = dataset(files)
    kept = preload(data, budget_bytes=40 * 30 * 3 + 2 * 8 * 6 * 3, own=np.array([0, 1]))
    reads.clear()
    for i in (2, 3, 2, 3):
        kept.read(i)
    assert reads == [2, 3, 3]


def test_of_a_set_that_does_not_fit_a_host_looks_at_its_share():
    files = jpegs(200)
    files[3], files[4] = b"broken", b"broken too"
    data, reads = dataset(files)
    with pytest.raises(UserError) as error:
        preload(data, budget_bytes=1, own=np.arange(0, 200, 2))
    assert [line.split()[0] for line in str(error.value).splitlines()] == ["4.jpg"]
    assert set(reads) == set(range(0, 200, 2))


def test_images_that_do_not_fit_stay_where_they_are(monkeypatch):
    data, reads = dataset(jpegs(200))
    assert preload(data, budget_bytes=200 * 40 * 30 * 3 - 1) is data
    assert sorted(set(reads)) == list(range(200))  # Each header is looked at once more: the broken are named now.
    monkeypatch.setattr(preloading, "_CHECKED", 199)
    data, reads = dataset(jpegs(200))
    assert preload(data, budget_bytes=200 * 40 * 30 * 3 - 1) is data
    assert len(reads) <= 64  # Of a very large set a sample only.


def test_a_broken_image_of_a_set_that_does_not_fit_is_named_at_once():
    files = jpegs(200)
    files[3] = b"no image"  # The sample does not look at it.
    data, _ = dataset(files)
    with pytest.raises(UserError, match="begins with 'no image'"):
        preload(data, budget_bytes=1)


def test_the_budget_holds_where_the_sample_misleads(monkeypatch):
    # The sample sees each fourth image, which are the small ones.
    monkeypatch.setattr(preloading, "_BLOCK", 50)
    small, large = jpegs(1, 4, 4)[0], jpegs(1, 64, 64)[0]
    sampled = set(np.linspace(0, 251, 64).astype(int).tolist())
    data, reads = dataset([small if i in sampled else large for i in range(252)])
    assert preload(data, budget_bytes=100_000) is data
    assert len(reads) <= 64 + 252  # No image is decoded twice, and those after the second block are only looked at.


def test_reduced_decoding_counts_as_what_it_takes():
    files = jpegs(10, 400, 300)
    data, _ = dataset(files)
    kept = preload(data, budget_bytes=10 * 200 * 150 * 3, min_side=150)
    np.testing.assert_array_equal(kept.read(4), np.asarray(decode(files[4], min_side=150)))
    assert kept.read(4).shape == (150, 200, 3)


def test_all_broken_images_are_named():
    files = jpegs(120, 120, 90)
    files[7] = files[7][:2000]
    files[100] = b"text"
    data, _ = dataset(files)
    with pytest.raises(UserError) as error:
        preload(data, budget_bytes=10**9)
    lines = str(error.value).splitlines()
    assert [line.split()[0] for line in lines] == ["7.jpg", "100.jpg"]
    # The header of the truncated one is whole, but not its end.
    with pytest.raises(BrokenImages) as error:
        check(data)
    assert list(error.value.problems) == [7, 100]
    assert list(find_broken(data)) == [7, 100]


def test_all_broken_images_are_named_where_only_some_fit(monkeypatch):
    monkeypatch.setattr(preloading, "_BLOCK", 50)
    files = jpegs(200)
    for i in (0, 77, 199):  # In three blocks; the set does not fit in the end.
        files[i] = b"broken"
    small = set(np.linspace(0, 199, 64).astype(int).tolist())
    files = [jpegs(1, 4, 4)[0] if i in small and len(file) > 6 else file for i, file in enumerate(files)]
    data, _ = dataset(files)
    with pytest.raises(BrokenImages) as error:
        preload(data, budget_bytes=60 * 40 * 30 * 3)
    assert list(error.value.problems) == [0, 77, 199]


def test_files_are_named_by_their_whole_path(tmp_path):
    data, _ = dataset([b""])
    with pytest.raises(BrokenImages, match=f"^{tmp_path}/0.jpg is empty"):
        check(dataclasses.replace(data, root=tmp_path))


def test_a_broken_image_in_the_sample_does_not_hide_the_others():
    files = jpegs(90)
    files[0], files[50], files[89] = b"", b"text", b"<html>"
    data, _ = dataset(files)
    for look in (check, lambda data: preload(data, budget_bytes=10**9), lambda data: preload(data, budget_bytes=1)):
        with pytest.raises(UserError) as error:
            look(data)
        assert [line.split()[0] for line in str(error.value).splitlines()] == ["0.jpg", "50.jpg", "89.jpg"]


def test_many_errors_are_counted():
    data, _ = dataset([b""] * 25)
    with pytest.raises(UserError) as error:
        check(data)
    assert len(str(error.value).splitlines()) == 11
    assert str(error.value).endswith("\nand 15 more")


def test_attempts_keep_the_order_and_pass_bugs_on():
    def odd(i: int) -> int:
        if i % 2 == 0:
            raise UserError(f"{i} is even")
        return i * i

    assert attempt_all(range(100), lambda i: i * i, workers=3) == ({i: i * i for i in range(100)}, {})
    good, bad = attempt_all([5, 4, 3, 2], odd)
    assert list(good.items()) == [(5, 25), (3, 9)]
    assert bad == {4: "4 is even", 2: "2 is even"}
    with pytest.raises(ZeroDivisionError):
        attempt_all(range(10), lambda i: 1 // (i - 5))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jaxtl-data")]


def test_cores():
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_arrays_pass_the_check():
    check(Dataset(("a", "b"), np.zeros(2, np.int32), ("0", "1"), lambda i: np.zeros((4, 4, 3), np.uint8)))
