"""The convolution that families share: what its arguments mean, beside Flax' own."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxtl.models.convolution import conv


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((8, 4, 4), {"strides": (4, 4), "padding": "VALID"}),
        ((8, 3, 2, "SAME"), {"strides": (2, 2), "padding": "SAME"}),
        ((6, 7, 1, 3, 6), {"padding": 3, "feature_group_count": 6}),
    ],
)
def test_it_is_a_convolution_with_square_windows(arguments, options):
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 6)).astype(np.float32)
    features, size, *_ = arguments
    ours = conv(*arguments, bias=False, dtype=np.float32, name="conv")
    theirs = nn.Conv(features, (size, size), use_bias=False, name="conv", **options)
    variables = ours.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, theirs.init(jax.random.key(0), x))
    np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(variables, x), atol=1e-5)
