import time

from jaxtl.train.progress import Progress


def test_the_seconds_of_all_processes_are_counted():
    first = Progress()
    first.began = time.perf_counter() - 100
    second = Progress(**first.to_json())  # As a checkpoint keeps it.
    second.began = time.perf_counter() - 20
    third = Progress(**second.to_json())
    third.began = time.perf_counter() - 3
    assert 123 <= third.total() < 124
    assert "began" not in third.to_json()
