"""Features on disk are whole or not there: torn writes, flipped bits and parts of other hosts never come back."""

import os
import signal
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

from jaxtl.data import Dataset
from jaxtl.errors import UserError
from jaxtl.feature_cache import store

ROWS = np.arange(7 * 2 * 3, dtype=np.float32).reshape(7, 2, 3)


def build(folder, rows=ROWS, **options):
    def fill(write):
        # In pieces that cross the border between two hosts.
        for start in range(0, len(rows), 3):
            write(start, rows[start : start + 3])

    return store.build(folder, count=len(rows), shape=rows.shape[1:], dtype=rows.dtype, fill=fill, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_rows_come_back_in_any_order(tmp_path, dtype):
    built = build(tmp_path / "key", ROWS.astype(dtype))
    found = store.load(tmp_path / "key")
    for rows in (built, found):
        assert len(rows) == 7
        np.testing.assert_array_equal(rows[np.array([6, 0, 0, 3])], ROWS[[6, 0, 0, 3]].astype(dtype))
        assert rows[np.array([1])].dtype == dtype
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == ["part-00000.bin", "part-00000.json"]


def test_each_host_writes_its_part_and_reads_all(tmp_path):
    barrier, found = threading.Barrier(3), {}

    def host(number):
        found[number] = build(tmp_path / "key", shard=(number, 3), wait=barrier.wait)

    threads = [threading.Thread(target=host, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sizes = [(tmp_path / "key" / f"part-0000{number}.bin").stat().st_size for number in range(3)]
    assert sizes == [2 * 24, 2 * 24, 3 * 24]
    for rows in found.values():
        np.testing.assert_array_equal(rows[np.arange(7)], ROWS)


def test_a_flipped_bit_is_found_and_the_features_are_made_anew(tmp_path):
    build(tmp_path / "key")
    path = tmp_path / "key" / "part-00000.bin"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    assert store.load(tmp_path / "key") is None
    np.testing.assert_array_equal(build(tmp_path / "key")[np.arange(7)], ROWS)


@pytest.mark.parametrize("damage", ["part-00000.bin", "part-00000.json"])
def test_a_part_that_is_missing_or_cut_does_not_count(tmp_path, damage):
    build(tmp_path / "key")
    path = tmp_path / "key" / damage
    path.write_bytes(path.read_bytes()[:-5])
    assert store.load(tmp_path / "key") is None
    path.unlink()
    assert store.load(tmp_path / "key") is None


def test_a_process_killed_in_the_middle_leaves_nothing_that_counts(tmp_path):
    code = f"""
import os, pathlib, signal, numpy as np
from jaxtl.feature_cache import store
def fill(write):
    write(0, np.ones((3, 2), np.float32))
    os.kill(os.getpid(), signal.SIGKILL)
folder = pathlib.Path({str(tmp_path / "key")!r})
store.build(folder, count=6, shape=(2,), dtype="float32", fill=fill)
"""
    died = subprocess.run([sys.executable, "-c", code], check=False, env=os.environ)
    assert died.returncode == -signal.SIGKILL
    assert store.load(tmp_path / "key") is None


def test_what_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"give another folder"):
        build(tmp_path / "file" / "key")


def dataset(content=b"abc", label=0, name="a"):
    return Dataset(names=(name,), labels=np.array([label], np.int32), classes=("x", "y"), read=lambda index: content)


def test_the_key_changes_with_all_that_features_depend_on():
    variables = {"params": {"kernel": np.float32([1.0, 2.0])}}
    key = store.make_key(variables, {"stop": "block1"}, [dataset()])
    assert key == store.make_key({"params": {"kernel": np.float32([1.0, 2.0])}}, {"stop": "block1"}, [dataset()])
    nearly = {"params": {"kernel": np.nextafter(np.float32([1.0, 2.0]), np.float32(9))}}
    others = [
        (nearly, {"stop": "block1"}, [dataset()]),
        (variables, {"stop": "block0"}, [dataset()]),
        (variables, {"stop": "block1"}, [dataset(content=b"abd")]),
        (variables, {"stop": "block1"}, [dataset(label=1)]),
        (variables, {"stop": "block1"}, [dataset(name="b")]),
        (variables, {"stop": "block1"}, [dataset(), dataset()]),
    ]
    assert len({key, *(store.make_key(*other) for other in others)}) == 7
