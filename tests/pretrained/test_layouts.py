"""Layouts of others: each change of axes is taken back by its way back, or says that there is none."""

import numpy as np
import pytest

from jaxtl.pretrained.layouts import LEAVES

# Shapes in the source, where a matrix is none.
SHAPES = {
    ("torch", "conv"): (6, 4, 3, 3),
    ("torch", "pixel"): (6, 4, 1, 1),
    ("torch", "channels"): (6, 1, 1),
    ("torch", "offsets"): (2, 5, 5),
    **{("torch", f"grid{side}"): (6, 4 * side**2) for side in (4, 5, 6, 7)},
    ("keras", "pixel"): (1, 1, 4, 6),
    ("keras", "grid7"): (49 * 4, 6),
}
ONE_WAY = {("flax", "split"), ("flax", "merge"), ("flax", "norm"), ("keras", "bgr"), ("keras", "depthwise")}
ONE_WAY |= {("keras", "unscaled")}


@pytest.mark.parametrize(("layout", "kind"), [(layout, kind) for layout, kinds in LEAVES.items() for kind in kinds])
def test_there_and_back(layout, kind):
    _, _, transform = LEAVES[layout][kind][0]
    if (layout, kind) in ONE_WAY:
        with pytest.raises(ValueError, match="read only"):
            transform.backward(np.zeros((2, 2)))
        return
    source = np.random.default_rng(0).normal(size=SHAPES.get((layout, kind), (6, 4)))
    np.testing.assert_array_equal(transform.backward(transform.forward(source)), source)


def test_ours_has_channels_last():
    source = np.arange(24.0).reshape(2, 3, 2, 2)
    forward = LEAVES["torch"]["conv"][0][2].forward
    assert forward(source).shape == (2, 2, 3, 2)
    assert forward(source)[1, 0, 2, 1] == source[1, 2, 1, 0]
