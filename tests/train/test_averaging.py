import numpy as np
import pytest

from jaxtl.train.averaging import greedy_members, interpolate, weighted_mean


def draw(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        "params": {"a": {"kernel": rng.normal(size=(3, 2)).astype(dtype)}, "b": rng.normal(size=4).astype(dtype)},
        "batch_stats": {"a": {"mean": rng.normal(size=2).astype(dtype)}},
    }


def test_the_mean_is_that_of_numpy_leaf_by_leaf():
    trees = [draw(seed) for seed in range(3)]
    found = weighted_mean(trees)
    for names in (("params", "a", "kernel"), ("params", "b"), ("batch_stats", "a", "mean")):
        leaves, leaf = trees, found
        for name in names:
            leaves, leaf = [each[name] for each in leaves], leaf[name]
        np.testing.assert_allclose(leaf, np.mean(np.float64(leaves), 0), rtol=1e-7)
        assert leaf.dtype == np.float32
    weighted = weighted_mean(trees, [0.5, 0.25, 0.25])["params"]["b"]
    np.testing.assert_allclose(weighted, np.average([t["params"]["b"] for t in trees], 0, [2, 1, 1]), rtol=1e-6)


def test_what_is_the_same_in_all_stays_to_the_bit():
    frozen = np.float32([0.1, 1 / 3, 1e-30])  # A third of three of them, summed in float32, is another number.
    found = weighted_mean([{"params": {"w": frozen, "n": np.int32(seed)}} for seed in range(3)])["params"]
    assert found["w"].tobytes() == frozen.tobytes()
    assert found["n"] == 0  # A counter has no mean.


@pytest.mark.parametrize("other", [{"params": {"b": np.ones(4)}}, {"params": {"a": np.ones(3)}}])
def test_other_structures_have_no_mean(other):
    with pytest.raises(ValueError, match=r"differ in [12] leaves, such as params/[ab]"):
        weighted_mean([{"params": {"a": np.ones(2)}}, other])


def test_interpolation_begins_and_ends_with_the_very_weights_and_keeps_what_it_is_told():
    start, end = draw(0), draw(1)
    for alpha, of in ((0, start), (1, end)):
        assert interpolate(start, end, alpha)["params"]["b"].tobytes() == of["params"]["b"].tobytes()
    middle = interpolate(start, end, 0.25, keep=["params/b"])
    np.testing.assert_allclose(
        middle["params"]["a"]["kernel"], 0.75 * start["params"]["a"]["kernel"] + 0.25 * end["params"]["a"]["kernel"],
        rtol=1e-6,
    )  # fmt: skip
    for alpha in (0, 0.25, 1):
        np.testing.assert_array_equal(
            interpolate(start, end, alpha, keep=["params/b"])["params"]["b"], end["params"]["b"]
        )


def test_a_greedy_soup_is_never_worse_on_what_judges_it_than_its_best_ingredient():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        single = [(float(x), float(y)) for x, y in zip(rng.integers(0, 4, 5) / 4, rng.normal(size=5), strict=True)]
        tried = {}

        def judge(chosen, rng=rng, tried=tried):
            return tried.setdefault(tuple(chosen), (float(rng.integers(0, 5)) / 4, float(rng.normal())))

        chosen = greedy_members(single, judge)
        assert chosen[0] == max(range(5), key=lambda i: single[i])
        score = single[chosen[0]] if len(chosen) == 1 else tried[tuple(chosen)]
        assert score >= max(single)
        assert len(tried) == 4  # Each of the others is tried once, in the order of their own scores.
        assert [single[order[-1]] for order in tried] == sorted(single, reverse=True)[1:]


def test_one_that_changes_nothing_is_taken_in_as_the_paper_has_it():
    assert greedy_members([0.5, 0.5], lambda chosen: 0.5) == [0, 1]
