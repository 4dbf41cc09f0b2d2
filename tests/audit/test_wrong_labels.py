import numpy as np
import pytest

pytest.importorskip("cleanlab", reason="the extra audit is not installed")

from jaxtl.audit.wrong_labels import _predict_out_of_fold, find_wrong_labels


def clusters(count, spread=1.0):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 4
    return rng.normal(size=(4, 8))[labels] * 3 + spread * rng.normal(size=(count, 8)), labels


def test_flipped_labels_are_found_with_their_classes():
    features, labels = clusters(200)
    flipped = np.random.default_rng(1).choice(200, 16, replace=False)
    given = labels.copy()
    given[flipped] = (given[flipped] + 1) % 4
    found = find_wrong_labels(features, given, 4)
    right = np.isin(found.index, flipped)
    assert right.sum() >= 15
    assert len(found.index) <= 20
    assert (found.suggested == labels[found.index])[right].all()
    assert (np.diff(found.given) >= 0).all()


def test_classes_of_few_images_are_not_judged():
    features, labels = clusters(80)
    labels[:3], labels[3:6] = 4, 6  # Class 5 has no images.
    found = find_wrong_labels(features, labels, 7)
    assert found.unjudged.tolist() == [4, 6]
    assert not np.isin(found.index, range(6)).any()
    one = find_wrong_labels(features[:6], np.int64([0, 0, 0, 0, 0, 1]), 2)
    assert (len(one.index), one.unjudged.tolist()) == (0, [1])


def test_each_image_is_judged_by_a_probe_that_has_not_seen_it():
    # Labels that no feature tells: whoever had seen them would know them, whoever has not can but guess.
    labels = np.arange(60) % 3
    found = _predict_out_of_fold(np.random.default_rng(0).normal(size=(60, 80)), labels, 3)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert (found.argmax(1) == labels).mean() < 0.6
    features, labels = clusters(60)
    assert (_predict_out_of_fold(features, labels, 4).argmax(1) == labels).mean() > 0.9
