"""The activations of the small networks are PyTorch's, with its gradients at the corners."""

import jax
import numpy as np
import pytest

from jaxtl.models.layers.squeeze_excite import ACTIVATIONS, GATES


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ACTIVATIONS["relu6"], "ReLU6"),
        (ACTIVATIONS["hard_swish"], "Hardswish"),
        (ACTIVATIONS["swish"], "SiLU"),
        (GATES["hard_sigmoid"], "Hardsigmoid"),
        (GATES["sigmoid"], "Sigmoid"),
    ],
)
def test_values_and_gradients_are_those_of_torch(ours, theirs):
    import torch

    # Corners of relu6, and values about those of the others, whose own are a matter of rounding.
    x = np.float32([-7, -3.5, -2.9, -1, 0, 0.5, 2.9, 3.5, 6, 7] if theirs != "Hardswish" else [-7, -3.5, -1, 0, 1, 7])
    there = torch.from_numpy(x).requires_grad_()
    y = getattr(torch.nn, theirs)()(there)
    y.sum().backward()
    np.testing.assert_allclose(ours(x), y.detach(), atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: ours(x).sum())(x), there.grad, atol=1e-6)
