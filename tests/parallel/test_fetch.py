import jax.numpy as jnp
import numpy as np

from jaxtl.parallel.fetch import one_behind


def test_a_result_is_fetched_when_the_next_is_under_way():
    begun = []

    def results():
        for i in range(3):
            begun.append(i)
            yield {"x": jnp.full(2, i)}

    seen = []
    for fetched in one_behind(results()):
        assert isinstance(fetched["x"], np.ndarray)
        seen.append((fetched["x"].tolist(), list(begun)))
    assert seen == [([0, 0], [0, 1]), ([1, 1], [0, 1, 2]), ([2, 2], [0, 1, 2])]


def test_nothing_comes_of_nothing():
    assert list(one_behind([])) == []
