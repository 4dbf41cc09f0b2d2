import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.evaluate import accumulate
from jaxtl.evaluate.accumulate import add_up
from jaxtl.evaluate.metrics import compute_metrics, detailed_headline, headline, summary, wilson_interval
from jaxtl.train.losses import binary_cross_entropy

batch_accumulators = jax.jit(accumulate.batch_accumulators)

# Five examples of three classes; the fourth class occurs nowhere.
LOGITS = jnp.array(
    [[5.0, 1, 0, 0], [0, 4, 1, 0], [3, 0, 2, 0], [0, 1, 6, 0], [0, 2, 1, 0]],
)
LABELS = jnp.array([0, 1, 1, 2, 2])
CLASSES = ("a", "b", "c", "d")


def host(accumulators):
    return {key: np.asarray(value) for key, value in accumulators.items()}


def test_literal_figures():
    result = compute_metrics(host(batch_accumulators(LOGITS, LABELS, jnp.ones(5))), CLASSES)
    assert result["accuracy"] == 0.6
    assert "top5" not in result  # Of four classes each is among the first five.
    assert result["accuracy_interval"] == [0.230724, 0.882379]
    assert result["confusion_matrix"] == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    # precision: a 1/2, b 1/2, c 1/1; recall: a 1/1, b 1/2, c 1/2; "d" does not occur and does not count.
    assert result["precision"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert result["recall"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert result["f1"] == pytest.approx((2 / 3 + 0.5 + 2 / 3) / 3)
    assert result["per_class"]["c"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "count": 2}
    assert result["per_class"]["d"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "count": 0}
    log_probabilities = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    assert result["loss"] == pytest.approx(-np.mean([log_probabilities[i, label] for i, label in enumerate(LABELS)]))
    assert set(summary(result)) == {"accuracy", "loss", "precision", "recall", "f1"}
    assert headline(result) == "accuracy 60.0 % of 5 images (95 % interval 23 to 88)  F1 61.1 %  loss 1.0006"


def test_top5_of_six_classes_or_where_it_was_given_before():
    logits, labels = jnp.arange(6.0)[None].repeat(2, 0), jnp.array([0, 1])
    accumulators = host(batch_accumulators(logits, labels, jnp.ones(2)))
    assert compute_metrics(accumulators, tuple("abcdef"))["top5"] == 0.5
    accumulators = host(batch_accumulators(LOGITS, LABELS, jnp.ones(5)))
    assert compute_metrics(accumulators, CLASSES, always_top5=True)["top5"] == 1.0


@pytest.mark.parametrize(
    ("hits", "count", "interval"),
    # The first from Newcombe (1998), table I, method 3.
    [(81, 263, [0.2553, 0.3662]), (8, 8, [0.6756, 1.0]), (0, 20, [0.0, 0.1611]), (1, 1, [0.2065, 1.0])],
)
def test_wilson_intervals(hits, count, interval):
    assert wilson_interval(hits, count) == pytest.approx(interval, abs=5e-5)


def test_the_loss_is_the_one_that_is_asked_for():
    labels = jnp.array([0, 1])
    result = jax.jit(accumulate.batch_accumulators, static_argnums=3)(
        jnp.log(jnp.array([[3.0, 1], [1, 1]])), labels, jnp.ones(2), binary_cross_entropy
    )
    # Sigmoids of 3/4 and 1/2, and of 1/2 twice: right, wrong; wrong, right.
    assert float(result["loss"]) == pytest.approx(-np.log([3 / 4, 1 / 2, 1 / 2, 1 / 2]).sum(), rel=1e-6)


def test_rows_of_mask_0_count_nowhere():
    padded = batch_accumulators(
        jnp.pad(LOGITS, ((0, 3), (0, 0))), jnp.pad(LABELS, (0, 3)), jnp.pad(jnp.ones(5), (0, 3))
    )
    plain = batch_accumulators(LOGITS, LABELS, jnp.ones(5))
    for key in plain:
        np.testing.assert_array_equal(padded[key], plain[key], err_msg=key)


def test_top5_is_the_share_with_the_label_among_the_five_highest():
    logits = jnp.arange(10.0)[None].repeat(3, 0)
    result = batch_accumulators(logits, jnp.array([9, 5, 4]), jnp.ones(3))
    assert int(result["top5"]) == 2
    assert int(result["correct"]) == 1


def test_any_cut_into_batches_gives_the_same_sums():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(60, 7)).astype(np.float32), rng.integers(0, 7, 60)
    whole = add_up([batch_accumulators(logits, labels, np.ones(60))])
    for size in (7, 32):
        cut = [(logits[i : i + size], labels[i : i + size]) for i in range(0, 60, size)]
        parts = add_up(batch_accumulators(*rows, np.ones(len(rows[1]))) for rows in cut)
        for key in whole:
            np.testing.assert_allclose(parts[key], whole[key], rtol=1e-6, err_msg=key)


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="at least one batch"):
        add_up([])


def test_of_several_labels_accuracy_is_that_of_whole_images():
    counts = {"count": 4, "loss": 2.0, "correct": 1, "mistakes": 3}
    of_class = {"hits": [2, 1, 0], "predicted": [2, 2, 0], "actual": [3, 2, 0]}
    arrays = {key: np.asarray(value) for key, value in {**counts, **of_class}.items()}
    found = compute_metrics(arrays, ("a", "b", "c"), always_top5=True)
    assert (found["accuracy"], found["hamming_loss"], found["loss"]) == (0.25, 0.25, 0.5)
    assert found["f1"] == pytest.approx((0.8 + 0.5) / 2)
    assert not {"top5", "confusion_matrix"} & found.keys()
    assert headline({**found, "map": 0.5}).startswith("subset accuracy 25.0 % of 4 images (95 % interval 5 to 70)")
    assert "F1 65.0 %  mAP 50.0 %  loss 0.5000" in headline({**found, "map": 0.5})
    assert "mAP" not in headline({**found, "map": None})
    details = {**found, "macro": {"f1": 0.65}, "map": None, "intervals": {"macro_f1": [0.1, 0.9]}}
    assert detailed_headline(details) == "macro F1 65.0 % (10 to 90)  Hamming loss 25.0 %"
