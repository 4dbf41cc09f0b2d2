import itertools

import numpy as np
import pytest

from jaxtl.data.dataset import Dataset
from jaxtl.data.loader import Reading, train_batches
from jaxtl.data.rows import train_rows
from jaxtl.data.sampling import quotas, sampled_epoch

LABELS = np.repeat([0, 1, 3], [60, 9, 3])  # Class 2 has no images.


@pytest.mark.parametrize(("sampling", "expected"), [("", [60, 9, 0, 3]), ("balanced", [24, 24, 0, 24])])
def test_quotas(sampling, expected):
    assert quotas(np.bincount(LABELS), sampling).tolist() == expected


def test_quotas_of_roots():
    found = quotas(np.bincount(LABELS), "sqrt")
    roots = np.sqrt([60, 9, 0, 3])
    np.testing.assert_allclose(found, 72 * roots / roots.sum(), atol=1)
    assert found.sum() == 72


@pytest.mark.parametrize("seed", range(20))
def test_quotas_fill_an_epoch_whatever_the_numbers(seed):
    counts = np.random.default_rng(seed).integers(0, 50, 13)
    for sampling in ("balanced", "sqrt"):
        found = quotas(counts, sampling)
        assert found.sum() == counts.sum()
        assert (found[counts > 0] > 0).all()
        assert not found[counts == 0].any()
    assert np.ptp(quotas(counts, "balanced")[counts > 0]) <= 1


@pytest.mark.parametrize("sampling", ["balanced", "sqrt"])
def test_no_image_comes_again_before_all_others_of_its_class(sampling):
    epochs = [sampled_epoch(LABELS, sampling, seed=3, epoch=epoch) for epoch in range(7)]
    for index, _ in epochs:
        np.testing.assert_array_equal(np.bincount(LABELS[index]), quotas(np.bincount(LABELS), sampling))
    shown, times = (np.concatenate([epoch[k] for epoch in epochs]) for k in (0, 1))
    pairs = set(zip(shown.tolist(), times.tolist(), strict=True))
    assert len(pairs) == len(shown)  # Each time an image is shown has a number of its own, and so another view.
    for c in (0, 1, 3):
        often = np.bincount(shown, minlength=len(LABELS))[c == LABELS]
        assert np.ptp(often) <= 1


@pytest.mark.parametrize("sampling", ["balanced", "sqrt"])
@pytest.mark.parametrize("start", [1, 5, 8, 9, 23])
def test_rows_from_any_step_are_those_of_the_whole(sampling, start):
    def rows(start_step):
        return train_rows(LABELS, batch_size=8, seed=1, start_step=start_step, sampling=sampling)

    for one, other in zip(itertools.islice(rows(0), start, start + 12), rows(start), strict=False):
        np.testing.assert_array_equal(one.index, other.index)
        np.testing.assert_array_equal(one.epoch, other.epoch)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_rows_of_each_batch(hosts):
    def rows(shard):
        return train_rows(LABELS, batch_size=8, seed=1, shard=shard, sampling="balanced")

    whole = rows((0, 1))
    parts = [rows((host, hosts)) for host in range(hosts)]
    for _ in range(20):
        expected = next(whole)
        found = [next(part) for part in parts]
        np.testing.assert_array_equal(np.concatenate([each.index for each in found]), expected.index)
        np.testing.assert_array_equal(np.concatenate([each.epoch for each in found]), expected.epoch)


def test_the_order_never_changes():
    # A run resumed under another version must go on with the same examples.
    index, times = sampled_epoch(np.array([0, 0, 0, 0, 1, 1]), "balanced", seed=0, epoch=1)
    assert index.tolist() == [2, 5, 4, 4, 0, 3]
    assert times.tolist() == [1, 2, 2, 1, 1, 0]


def one_value(image, rng):
    return np.full((2, 2, 3), rng.integers(256), np.uint8)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("start", [0, 7])
def test_batches_follow_the_sampling_of_the_data_set(workers, start):
    images = np.random.default_rng(0).integers(0, 255, (72, 4, 4, 3), dtype=np.uint8)
    dataset = Dataset(tuple("abcd"), LABELS.astype(np.int32), tuple(map(str, range(72))), images.__getitem__)
    balanced = Dataset(**{**vars(dataset), "sampling": "balanced"})

    def batches(data, step, workers):
        made = train_batches(data, batch_size=12, seed=4, view=one_value, start_step=step, reading=Reading(workers))
        found = list(itertools.islice(made, 12))
        made.close()
        return found

    found, whole = batches(balanced, start, workers), batches(balanced, 0, 2)
    for one, other in zip(found, whole[start:], strict=False):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["label"], other["label"])
    labels = np.concatenate([batch["label"] for batch in whole[:6]])
    assert np.bincount(labels).tolist() == [24, 24, 0, 24]
    views = np.concatenate([batch["image"][:, 0, 0, 0] for batch in whole])
    assert len(np.unique(views)) > 80  # Images that come again are seen anew: 144 draws of 256 values.
    assert balanced.take(np.arange(3)).sampling == "balanced"
