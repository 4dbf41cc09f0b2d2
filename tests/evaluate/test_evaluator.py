from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.data import Dataset
from jaxtl.errors import Stopped
from jaxtl.evaluate.evaluator import compile_evaluator
from jaxtl.parallel.partitioner import make_partitioner


class Linear:
    """Maps [B, 1] to logits [B, 2]: x and its opposite, scaled."""

    def apply(self, variables, x, train):
        assert train is False
        return jnp.concatenate([x, -x], 1) * variables["scale"]


def batches(dataset):
    for start in range(0, len(dataset), 4):
        rows = [dataset.read(i) for i in range(start, min(start + 4, len(dataset)))]
        real = len(rows)
        yield {
            "image": np.float32([*rows, *[0.0] * (4 - real)])[:, None],
            "label": np.int32([*dataset.labels[start : start + 4], *[0] * (4 - real)]),
            "mask": np.float32([1.0] * real + [0.0] * (4 - real)),
        }


VALUES = [3.0, -1.0, 2.0, -2.0, 0.5, 1.0]
DATA = Dataset(("a", "b"), np.int32([0, 1, 0, 0, 0, 1]), tuple("123456"), VALUES.__getitem__)


@pytest.mark.parametrize("name", ["jit", "pmap"])
def test_the_accumulators_are_those_of_all_rows(name):
    partitioner = make_partitioner(name)
    variables = partitioner.shard_state({"scale": jnp.float32(1.0)})
    dummy = next(batches(DATA))
    evaluator = compile_evaluator(Linear(), variables, partitioner, batches=batches, dummy=dummy)
    found = evaluator(variables, DATA)
    assert (int(found["count"]), int(found["correct"])) == (6, 4)
    assert found["confusion"].tolist() == [[3, 1], [1, 1]]
    logits = np.float32([[value, -value] for value in VALUES])
    losses = -jax.nn.log_softmax(logits)[np.arange(6), DATA.labels]
    assert float(found["loss"]) == pytest.approx(float(losses.sum()), rel=1e-6)


@pytest.mark.parametrize("name", ["jit", "pmap"])
def test_one_program_over_batches_that_stay_on_the_devices_gives_the_same_to_the_bit(name):
    partitioner = make_partitioner(name)
    variables = partitioner.shard_state({"scale": jnp.float32(0.3)})
    other = Dataset(DATA.classes, DATA.labels[:3], DATA.names[:3], VALUES.__getitem__)  # One batch alone.
    build = partial(compile_evaluator, Linear(), variables, partitioner, batches=batches, dummy=next(batches(DATA)))
    one_by_one, at_once, alone = build(), build(resident=DATA), build(resident=other)
    for evaluator, dataset in ((at_once, DATA), (at_once, other), (alone, other)):
        found, expected = evaluator(variables, dataset), one_by_one(variables, dataset)
        logits = [each.with_logits(variables, dataset)[1] for each in (evaluator, one_by_one)]
        np.testing.assert_array_equal(*logits)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value, err_msg=key)
    with pytest.raises(Stopped, match="the evaluation was left"):
        at_once(variables, DATA, stop=lambda: True)


@pytest.mark.parametrize("name", ["jit", "pmap"])
def test_the_logits_of_the_same_pass_lie_in_the_order_of_the_examples(name):
    partitioner = make_partitioner(name)
    variables = partitioner.shard_state({"scale": jnp.float32(2.0)})
    evaluator = compile_evaluator(Linear(), variables, partitioner, batches=batches, dummy=next(batches(DATA)))
    accumulators, logits = evaluator.with_logits(variables, DATA)
    assert logits.dtype == np.float32
    assert logits.tolist() == [[2 * value, -2 * value] for value in VALUES]
    np.testing.assert_equal(accumulators, evaluator(variables, DATA))


def test_batches_that_lack_an_example_are_an_error():
    partitioner = make_partitioner("jit")
    variables = partitioner.shard_state({"scale": jnp.float32(1.0)})
    few = lambda dataset: [next(batches(dataset))]  # noqa: E731
    evaluator = compile_evaluator(Linear(), variables, partitioner, batches=few, dummy=next(batches(DATA)))
    with pytest.raises(ValueError, match="the batches have 4 examples, but the data set has 6"):
        evaluator.with_logits(variables, DATA)


def test_an_evaluation_can_be_left():
    partitioner = make_partitioner("jit")
    variables = partitioner.shard_state({"scale": jnp.float32(1.0)})
    evaluator = compile_evaluator(Linear(), variables, partitioner, batches=batches, dummy=next(batches(DATA)))
    with pytest.raises(Stopped, match="the evaluation was left"):
        evaluator(variables, DATA, stop=lambda: True)
