import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.train.penalties import make_penalty, size_penalty

ASSIGNMENT = {"base/kernel": "base", "head/kernel": "head", "head/bias": "head"}
LABELS = {**ASSIGNMENT, "base/kernel": "frozen"}
LEAVES = {"head/kernel": jnp.array([[1.0, -2.0]]), "head/bias": jnp.array([3.0])}


def test_size_penalty():
    value = size_penalty(LEAVES, l1={"head/kernel": 0.1}, l2={"head/kernel": 0.01, "head/bias": 1.0})
    np.testing.assert_allclose(value, 0.1 * 3 + 0.01 * 5 + 9.0, rtol=1e-6)


def test_rules_add_up_and_spare_what_is_frozen():
    penalty = make_penalty(LABELS, ASSIGNMENT, l1={"kernel": 0.1}, l2={"head": 0.5, "bias": 0.25, "base": 1.0})
    np.testing.assert_allclose(penalty(LEAVES), 0.1 * 3 + 0.5 * 5 + 0.75 * 9, rtol=1e-6)


def test_no_rules_no_penalty():
    assert make_penalty(LABELS, ASSIGNMENT, l1={}, l2={}) is None


def test_a_rule_that_fits_nothing_lists_the_groups():
    with pytest.raises(UserError, match=r"l2: 'heads' fits no group(.|\n)*base head"):
        make_penalty(LABELS, ASSIGNMENT, l2={"heads": 1.0})
