import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import models
from jaxtl.compress.input_norms import NORMS, add_squares, prune_by_inputs, unit_mask
from jaxtl.trees import flatten


def test_each_unit_loses_its_lowest_scores():
    assert unit_mask(jnp.array([[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]]), 0.5).T.tolist() == [
        [True, True, False, False],
        [False, False, True, True],
    ]


def test_a_large_weight_of_a_small_input_goes_before_a_small_one_of_a_large_input():
    params = {"a": {"kernel": jnp.array([[3.0, -3.0], [1.0, 2.0]])}, "b": {"kernel": jnp.array([[3.0], [1.0]])}}
    squares = {"a": {"squares": jnp.array([0.25, 9.0])}}  # Norms 0.5 and 3: the scores are 1.5, 1.5, 3 and 6.
    pruned = prune_by_inputs(params, squares, ["a/kernel", "b/kernel"], 0.5)
    assert pruned["a"]["kernel"].tolist() == [[0.0, 0.0], [1.0, 2.0]]
    assert pruned["b"]["kernel"].tolist() == [[3.0], [0.0]]


def test_two_of_four_go_by_what_they_do():
    params = {"a": {"kernel": jnp.array([[4.0], [3.0], [2.0], [1.0]])}}
    squares = {"a": {"squares": jnp.array([0.01, 1.0, 1.0, 100.0])}}
    pruned = prune_by_inputs(params, squares, ["a/kernel"], 0.5, "2:4")
    assert pruned["a"]["kernel"][:, 0].tolist() == [0.0, 3.0, 0.0, 1.0]


def test_squares_of_the_inputs_of_every_layer_are_added_up_over_batches():
    module = models.build("resnet20_cifar:blocks=1,width=4,image_size=16", num_classes=3)
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    variables = module.init(jax.random.key(1), images)
    found = {}
    for half in (images[:2], images[2:]):
        with nn.intercept_methods(add_squares):
            _, changed = module.apply({**variables, **found}, half, mutable=[NORMS])
        found = dict(changed)
    sums = flatten(found[NORMS])
    kernels = [path for path in flatten(variables["params"]) if path.endswith("kernel")]
    assert {path.replace("kernel", "squares") for path in kernels} == set(sums)
    np.testing.assert_allclose(sums["conv1/squares"], (images**2).sum((0, 1, 2)), rtol=1e-4)
