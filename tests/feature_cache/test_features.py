import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.data import Dataset
from jaxtl.feature_cache import features

TABLE = (("embed", "embed"), ("block0", "block0"), ("block1", "block1"), ("head", "head"))
ASSIGNMENT = {"embed/w": "embed", "block0/w": "block0", "block1/w": "block1", "head/w": "head"}


def labels(*trained):
    return {path: group if group in trained else "frozen" for path, group in ASSIGNMENT.items()}


@pytest.mark.parametrize(
    ("stages", "cut"),
    [
        ([labels("head")], ("block1", "head")),
        ([labels("block1", "head")], ("block0", "block1")),
        ([labels("head"), labels("block0")], ("embed", "block0")),
        ([labels("embed", "head")], ("", "embed")),
    ],
)
def test_the_prefix_ends_before_the_first_group_that_trains_in_any_stage(stages, cut):
    assert features.find_cut(TABLE, ASSIGNMENT, stages) == cut


def test_the_variables_of_the_prefix_are_of_all_collections():
    variables = {
        "params": {"embed": {"w": 1}, "block0": {"w": 2}, "block1": {"w": 3}, "head": {"w": 4}},
        "batch_stats": {"block0": {"mean": 5}, "block1": {"mean": 6}},
    }
    assert features.prefix_variables(variables, TABLE, "block0") == {
        "params": {"embed": {"w": 1}, "block0": {"w": 2}},
        "batch_stats": {"block0": {"mean": 5}},
    }


def test_features_are_written_in_order_without_the_padding():
    written = {}

    def write(row, values):
        written[row] = values.tolist()

    batches = [{"image": np.float32([1, 2])}, {"image": np.float32([3, 0])}]
    row = features.compute(lambda x: jnp.asarray(x) * 10, batches, write, count=3, shard_batch=lambda b: b, first=4)
    assert (row, written) == (7, {4: [10.0, 20.0], 6: [30.0]})


def examples(weights=None):
    """Three examples of three classes, without images."""
    return Dataset(("a", "b", "c"), np.int32([0, 1, 2]), ("0", "1", "2"), lambda i: b"", weights=weights)


def test_an_epoch_shows_the_view_of_its_number():
    stored = np.arange(6.0)[:, None]  # Two views of three examples.
    batches = features.train_batches(stored, examples(), views=2, batch_size=3, seed=0)
    for epoch, batch in enumerate(itertools.islice(batches, 4)):
        assert batch["image"][:, 0].tolist() == (3 * (epoch % 2) + batch["label"]).tolist()
        assert sorted(batch["label"]) == [0, 1, 2]


def test_weights_go_with_their_features():
    stored, weights = np.arange(6.0)[:, None], np.float32([0.5, 1, 1.5])
    batches = features.train_batches(stored, examples(weights), views=2, batch_size=3, seed=0)
    for batch in itertools.islice(batches, 3):
        assert batch["mask"].tolist() == weights[batch["label"]].tolist()


def test_evaluation_fills_its_last_batch_with_rows_that_do_not_count():
    stored = np.arange(5.0)[:, None]
    first, second = features.eval_batches(stored, np.int32([7, 8, 9]), batch_size=2, first=2)
    assert (first["image"][:, 0].tolist(), first["label"].tolist(), first["mask"].tolist()) == ([2, 3], [7, 8], [1, 1])
    assert (second["label"].tolist(), second["mask"].tolist()) == ([9, 0], [1, 0])


def test_a_suffix_applies_the_rest_of_the_model():
    class Module:
        def apply(self, variables, x, **options):
            return variables, x, options

        def groups(self):
            return TABLE

    suffix = features.Suffix(Module(), "block1")
    assert suffix.apply(1, 2, train=True) == (1, 2, {"start": "block1", "train": True})
    assert suffix.groups() == TABLE
