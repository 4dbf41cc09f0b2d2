import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl.train.optimizer import KINDS, NAMES, OptimizerOptions, decays, make_optimizer

GROUPS = {"base/kernel": "frozen", "block/kernel": "block", "head/kernel": "head", "head/bias": "head"}
PARAMS = {
    "base": {"kernel": jnp.full((2, 2), 3.0)},
    "block": {"kernel": jnp.full((2, 2), 2.0)},
    "head": {"kernel": jnp.full((2, 2), 1.0), "bias": jnp.full((2,), 1.0)},
}
ONES = jax.tree.map(jnp.ones_like, PARAMS)


def first_update(multipliers=None, **options):
    optimizer = make_optimizer(GROUPS, OptimizerOptions(**options), multipliers=multipliers)
    return optimizer.update(ONES, optimizer.init(PARAMS), PARAMS)[0]


def two_updates(**options):
    """The second update: the first knows no momentum."""
    optimizer = make_optimizer(GROUPS, OptimizerOptions(**options))
    _, state = optimizer.update(ONES, optimizer.init(PARAMS), PARAMS)
    return optimizer.update(jax.tree.map(lambda x: 2 * x, ONES), state, PARAMS)[0]


def test_sgd_gives_each_group_its_rate_and_the_frozen_none():
    updates = first_update(name="sgd", learning_rate=0.1, multipliers={"block/kernel": 0.5}, momentum=0.0)
    np.testing.assert_allclose(updates["base"]["kernel"], 0.0)
    np.testing.assert_allclose(updates["block"]["kernel"], -0.05)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.1)


def test_momentum_adds_up():
    optimizer = make_optimizer(GROUPS, OptimizerOptions(name="sgd", learning_rate=1.0, momentum=0.5))
    state = optimizer.init(PARAMS)
    for expected in (-1.0, -1.5, -1.75):
        updates, state = optimizer.update(ONES, state, PARAMS)
        np.testing.assert_allclose(updates["head"]["bias"], expected)


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_is_decoupled_and_spares_what_has_one_axis(name):
    plain = first_update(name=name, learning_rate=0.1)
    decayed = first_update(name=name, learning_rate=0.1, weight_decay=0.01)
    np.testing.assert_allclose(decayed["block"]["kernel"] - plain["block"]["kernel"], -0.1 * 0.01 * 2.0, rtol=1e-3)
    np.testing.assert_array_equal(decayed["head"]["bias"], plain["head"]["bias"])
    np.testing.assert_array_equal(decayed["base"]["kernel"], 0.0)


def test_adamw_equals_optax():
    optimizer = make_optimizer(dict.fromkeys(GROUPS, "all"), OptimizerOptions(learning_rate=0.1, weight_decay=0.01))
    reference = optax.adamw(0.1, weight_decay=0.01, mask=decays)
    states = optimizer.init(PARAMS), reference.init(PARAMS)
    for scale in (1.0, -3.0, 0.5):
        grads = jax.tree.map(lambda x, scale=scale: scale * x, PARAMS)
        ours, first = optimizer.update(grads, states[0], PARAMS)
        theirs, second = reference.update(grads, states[1], PARAMS)
        states = first, second
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


def test_tokens_count_as_one_axis():
    assert decays({"cls": jnp.zeros((1, 1, 4)), "kernel": jnp.zeros((1, 4, 4)), "bias": jnp.zeros(4)}) == {
        "cls": False,
        "kernel": True,
        "bias": False,
    }


def test_the_optimizer_keeps_nothing_for_frozen_leaves():
    optimizer = make_optimizer(GROUPS, OptimizerOptions(name="adamw"))
    held = sum(leaf.size for leaf in jax.tree.leaves(optimizer.init(PARAMS)) if leaf.ndim)
    assert held == 2 * (4 + 4 + 2)  # Two moments of block/kernel, head/kernel and head/bias.


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="adamw, adam, sgd, rmsprop"):
        make_optimizer(GROUPS, OptimizerOptions(name="lamb"))


def test_a_rule_replaces_what_it_names_where_it_fits():
    rule = OptimizerOptions(name="adamw", learning_rate=lambda step: 0.01 * (step + 1))
    optimizer = make_optimizer(
        GROUPS,
        OptimizerOptions(name="sgd", learning_rate=0.1, momentum=0.0),
        overrides={"head/kernel": rule, "base/kernel": rule},
    )
    updates, state = optimizer.update(ONES, optimizer.init(PARAMS), PARAMS, step=jnp.array(4))
    np.testing.assert_allclose(updates["block"]["kernel"], -0.1)
    np.testing.assert_allclose(updates["head"]["bias"], -0.1)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.05, rtol=1e-5)  # Adam's first step: the whole rate.
    np.testing.assert_array_equal(updates["base"]["kernel"], 0.0)
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == 2 * 4


def test_labels_number_the_rules_as_they_come_and_stay_what_checkpoints_hold():
    first, second = OptimizerOptions(name="sgd", learning_rate=0.5), OptimizerOptions(name="sgd", learning_rate=0.25)
    optimizer = make_optimizer(
        {**GROUPS, "head/scale": "head", "tail/kernel": "head"},
        multipliers={"head/bias": (1.0, 0.125)},
        overrides={
            "tail/kernel": second,
            "head/kernel": first,
            "head/scale": OptimizerOptions(name="sgd", learning_rate=0.5),  # Equal to the first: the same rule.
            "base/kernel": OptimizerOptions(),  # Frozen, and counted all the same.
        },
    )
    params = {
        **PARAMS,
        "head": {**PARAMS["head"], "scale": jnp.ones((2, 2))},
        "tail": {"kernel": jnp.ones((2, 2))},
    }
    assert sorted(optimizer.init(params).inner_states) == [
        "block x 1",
        "frozen",
        "head x 1 0.125",
        "head x 1 by rule 2",
        "head x 1 by rule 3",
    ]


def test_what_is_exempt_from_weight_decay_stays_to_the_bit():
    params = {
        "embed": {"pos_embed": jnp.full((1, 3, 4), 0.3), "kernel": jnp.full((4, 4), 0.3)},
        "block0-1": {"table": jnp.full((2, 3, 4), 0.3), "kernel": jnp.full((2, 4, 4), 0.3)},
    }
    groups = {"embed/pos_embed": "a", "embed/kernel": "b", "block0-1/table": "c", "block0-1/kernel": "c"}
    options = OptimizerOptions(learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(groups, options, no_weight_decay=[".*/pos_embed", r"block\d/table"])

    @jax.jit
    def step(params):
        updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    after = step(params)
    np.testing.assert_array_equal(after["embed"]["pos_embed"], params["embed"]["pos_embed"])
    np.testing.assert_array_equal(after["block0-1"]["table"], params["block0-1"]["table"])
    np.testing.assert_allclose(after["embed"]["kernel"], 0.3 * 0.95, rtol=1e-6)
    np.testing.assert_allclose(after["block0-1"]["kernel"], 0.3 * 0.95, rtol=1e-6)


def test_a_rule_fits_a_whole_path_and_all_blocks_of_a_stack():
    shapes = {"block0-1": {"table": jnp.zeros((2, 3, 4))}, "pos_embed": jnp.zeros((3, 4))}
    assert decays(shapes, ["block0", "embed"]) == {"block0-1": {"table": True}, "pos_embed": True}
    with pytest.raises(ValueError, match=r"fits block1/table, but not all of the scanned layers block0-1"):
        decays(shapes, ["block1/.*"])


def test_the_table_says_which_options_each_optimizer_reads():
    for name in NAMES:
        plain = two_updates(name=name, learning_rate=0.1)
        for key in ("momentum", "b1", "b2", "eps"):
            changed = two_updates(**{"name": name, "learning_rate": 0.1, key: 0.5})
            same = jax.tree.map(np.array_equal, changed, plain)
            assert all(jax.tree.leaves(same)) == (key not in KINDS[name].reads), (name, key)
