import threading
import time

import numpy as np
import pytest

from jaxtl.deploy.serve.batching import Batcher, Busy


@pytest.fixture
def batcher():
    made = []

    def make(compute=lambda views: views * 2.0, **options):
        made.append(Batcher(compute, **{"batch_size": 4, "delay": 0.0, "latency": 10.0, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def submit(batcher, count):
    batcher.accept(count)
    return [batcher.submit(np.float32([i, i])) for i in range(count)]


def test_each_gets_its_own_answer(batcher):
    answers = submit(batcher(), 11)
    assert [answer.result(10).tolist() for answer in answers] == [[2 * i, 2 * i] for i in range(11)]


def test_what_comes_while_a_batch_is_computed_makes_the_next_one(batcher):
    sizes, free = [], threading.Event()

    def compute(views):
        sizes.append(len(views))
        free.wait(10)
        return views

    made = batcher(compute)
    first = submit(made, 1)
    while not sizes:
        time.sleep(0.001)
    others = submit(made, 7)
    free.set()
    for answer in first + others:
        answer.result(10)
    assert sizes == [1, 4, 3]


def test_a_batch_that_is_not_full_waits_for_others_and_no_longer_than_it_may(batcher):
    sizes = []
    made = batcher(lambda views: sizes.append(len(views)) or views, delay=30.0)
    answers = submit(made, 3)
    time.sleep(0.05)
    assert sizes == []
    for answer in answers + submit(made, 1):
        answer.result(10)
    assert sizes == [4]
    short = batcher(lambda views: sizes.append(len(views)) or views, delay=0.01)
    submit(short, 1)[0].result(10)
    assert sizes == [4, 1]


def test_more_than_can_be_answered_in_time_is_refused_but_never_the_first(batcher):
    made = batcher(latency=1.0)
    made.seconds_an_image = 0.1
    made.accept(30)  # Nothing else is there, so it is as fast as it can be.
    with pytest.raises(Busy):
        made.accept(1)
    made.release(25)
    made.accept(5)
    with pytest.raises(Busy):
        made.accept(1)
    assert made.accepted == 10


def test_an_error_is_told_to_those_of_its_batch_alone(batcher):
    def compute(views):
        if (views == 1).any():
            raise ValueError("no ones")
        return views

    made = batcher(compute, batch_size=1)
    zero, one, two = submit(made, 3)
    assert zero.result(10).tolist() == [0, 0]
    with pytest.raises(ValueError, match="no ones"):
        one.result(10)
    assert two.result(10).tolist() == [2, 2]
    assert made.is_alive()


def test_what_nobody_waits_for_any_more_is_not_computed(batcher):
    seen, free = [], threading.Event()

    def compute(views):
        seen.extend(views[:, 0].tolist())
        free.wait(10)
        return views

    made = batcher(compute)
    made.accept(3)
    first = made.submit(np.float32([7, 7]))
    while not seen:
        time.sleep(0.001)
    gone, last = made.submit(np.float32([8, 8])), made.submit(np.float32([9, 9]))
    assert gone.cancel()
    free.set()
    first.result(10)
    last.result(10)
    assert seen == [7, 9]


def test_the_end_answers_what_waits_and_takes_no_more():
    made = Batcher(lambda views: views, batch_size=4, delay=30.0, latency=1.0)
    answers = submit(made, 3)
    made.close()
    assert [answer.result(0).tolist() for answer in answers] == [[0, 0], [1, 1], [2, 2]]
    assert not made.is_alive()
    with pytest.raises(Busy):
        made.accept(1)
