import threading

import numpy as np
import pytest

from jaxtl.deploy.programs import Programs


def double(variables, rows):
    return variables["factor"] * rows


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_sizes_are_powers_of_two_and_the_largest(batch_size, sizes):
    assert Programs(double, {"factor": 2.0}, batch_size).sizes == sizes


def test_any_number_of_rows_in_batches_of_those_sizes():
    programs = Programs(double, {"factor": np.float32(2)}, 4)
    for count in range(1, 12):
        rows = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
        np.testing.assert_array_equal(programs(rows), 2 * rows)
    assert programs.compiled == (1, 2, 4)


def test_each_size_is_compiled_once_whoever_asks_first():
    traced, barrier, found = [], threading.Barrier(8), []

    def function(variables, rows):
        traced.append(rows.shape)
        return variables + rows

    programs = Programs(function, np.float32(1), 4)

    def ask(count):
        barrier.wait()
        found.append((count, programs(np.zeros((count, 3), np.float32))))

    threads = [threading.Thread(target=ask, args=(count,)) for count in (1, 2, 3, 4) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(traced) == [(1, 3), (2, 3), (4, 3)]
    assert len(found) == 8
    assert all(rows.shape == (count, 3) and (rows == 1).all() for count, rows in found)
