"""The plain form, in which padding is an operation of its own, gives what Flax gives."""

import flax.linen as nn
import numpy as np
import pytest

from jaxtl.models.layers.squeeze_excite import relu6
from jaxtl.models.layers.windows import max_over_windows, mean_over_windows
from jaxtl.parallel.backend import compiling_for

CASES = [
    ((3, 3), (2, 2), ((1, 1), (1, 1))),
    ((3, 3), (1, 1), ((1, 1), (1, 1))),
    ((3, 3), (2, 2), ((0, 1), (0, 0))),
    ((2, 2), (2, 2), ((0, -1), (0, -1))),
    ((3, 3), (2, 2), "SAME"),
    ((2, 2), (2, 2), "VALID"),
]


@pytest.mark.parametrize(("window", "strides", "padding"), CASES)
def test_the_plain_form_gives_what_flax_gives(window, strides, padding):
    # Below zero, so that padding with zeros would show.
    x = np.random.default_rng(0).normal(-5, 1, (2, 9, 7, 3)).astype(np.float32)
    options = {"window_shape": window, "strides": strides, "padding": padding}
    expected = nn.max_pool(x, **options)
    means = {counts: nn.avg_pool(x, count_include_pad=counts, **options) for counts in (True, False)}
    for form in ("none", "cpu"):
        with compiling_for(form):
            np.testing.assert_array_equal(max_over_windows(x, window, strides, padding), expected)
            for counts, mean in means.items():
                found = mean_over_windows(x, window, strides, padding, counts_padding=counts)
                np.testing.assert_allclose(found, mean, rtol=1e-6)


def test_relu6_is_the_same_in_both_forms():
    x = np.linspace(-3, 9, 25, dtype=np.float32)
    for form in ("none", "cpu"):
        with compiling_for(form):
            np.testing.assert_array_equal(relu6(x), np.clip(x, 0, 6))
