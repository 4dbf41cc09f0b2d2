import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.checkpoints.digests import digest_json, digests, paths, verify

TREE = {"params": {"kernel": np.float32([1.0, 2.0])}, "step": np.int32(3)}


def test_a_digest_is_that_of_the_bytes():
    found = digests(TREE)
    assert set(found) == {"['params']['kernel']", "['step']"} == paths(TREE)
    assert found["['params']['kernel']"] == hashlib.sha256(b"\0\0\x80\x3f\0\0\0\x40").hexdigest()
    assert digests({"params": {"kernel": jnp.float32([1.0, 2.0])}, "step": jnp.int32(3)}) == found


def test_an_array_that_is_not_contiguous_counts_by_its_values():
    matrix = np.arange(6.0).reshape(2, 3)
    assert digests(matrix.T) == digests(np.ascontiguousarray(matrix.T)) != digests(matrix)


def test_one_bit_is_enough_to_differ():
    expected = digests(TREE)
    verify(TREE, expected)
    other = {**TREE, "params": {"kernel": np.nextafter(TREE["params"]["kernel"], np.float32(9))}}
    with pytest.raises(ValueError, match=r"1 arrays differ from what was saved: \['params'\]\['kernel'\]"):
        verify(other, expected)
    with pytest.raises(ValueError, match=r"\['step'\]"):
        verify({"params": TREE["params"]}, expected)


def test_json_has_one_digest_whatever_the_order_of_its_keys():
    assert digest_json({"a": 1, "b": [2.5]}) == digest_json({"b": [2.5], "a": 1}) != digest_json({"a": 1, "b": [2.0]})
