import jax
import pytest

from jaxtl.parallel.backend import backend, compiling_for


def test_what_is_traced_within_is_for_another_backend():
    assert backend() == jax.default_backend()
    with compiling_for("tpu"), compiling_for("gpu"):
        assert backend() == "gpu"
    assert backend() == jax.default_backend()


def test_an_error_within_ends_it_too():
    with pytest.raises(KeyError), compiling_for("gpu"):
        raise KeyError
    assert backend() == jax.default_backend()
