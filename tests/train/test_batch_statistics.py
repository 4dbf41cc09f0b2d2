import flax.linen as nn
import jax
import numpy as np

from jaxtl.models.layers.batchnorm import BatchNorm
from jaxtl.train.batch_statistics import batch_statistics, differing_modules, with_mean_statistics


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = BatchNorm(name="first")(x, use_running_average=not train)
        x = nn.Dropout(0.5)(x, deterministic=not train)
        x = BatchNorm(name="second", momentum=0.5)(2 * x, use_running_average=not train)
        return nn.BatchNorm(name="third")(x + 1, use_running_average=not train)  # Flax' own: biased variances.


def setup():
    x = np.random.default_rng(0).normal(3, 2, (2, 8, 4, 4, 5)).astype(np.float32)
    variables = jax.device_get(Net().init(jax.random.key(0), x[0]))
    moved = jax.tree.map(lambda leaf: leaf + 7, variables["batch_stats"])  # What was there before must not count.
    return x, {**variables, "batch_stats": moved}


def test_statistics_are_means_over_batches_of_those_that_numpy_gives():
    x, variables = setup()
    found = [batch_statistics(variables, batch, model=Net(), modules={"first"}) for batch in x]
    stats = with_mean_statistics(variables, found)["batch_stats"]
    np.testing.assert_allclose(stats["first"]["mean"], x.mean((1, 2, 3)).mean(0), rtol=1e-5)
    # The unbiased variance, as PyTorch's running one.
    np.testing.assert_allclose(stats["first"]["var"], x.var((1, 2, 3), ddof=1).mean(0), rtol=1e-4)
    for name in ("second", "third"):
        np.testing.assert_array_equal(stats[name]["mean"], variables["batch_stats"][name]["mean"])


def test_a_module_behind_sees_what_comes_before_it_without_dropout():
    x, variables = setup()
    found = batch_statistics(variables, x[0], model=Net(), modules={"second", "third"})
    assert set(found) == {f"{name}/{kind}" for name in ("second", "third") for kind in ("mean", "var")}
    # The first stays as in evaluation: its running statistics are 7 (mean) and 8 (variance).
    seen = 2 * (x[0] - 7) / np.sqrt(8 + 1e-5)
    np.testing.assert_allclose(found["second/mean"], seen.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(found["third/mean"], 1, atol=1e-4)
    np.testing.assert_allclose(found["third/var"], 1, rtol=1e-3)


def test_statistics_that_are_the_same_everywhere_are_those_of_what_was_frozen():
    _, variables = setup()
    other = jax.tree.map(np.copy, variables)
    other["batch_stats"]["second"]["var"][0] += 1
    assert differing_modules([variables, other, variables]) == {"second"}
    assert differing_modules([variables, variables]) == set()
    assert differing_modules([{"params": {}}, {"params": {}}]) == set()
