"""Google's .npz files compute what an independently written reference computes from the same arrays."""

import google_references as google
import numpy as np
import pytest
from parity import images, load, outputs, same

from jaxtl import pretrained


@pytest.mark.parametrize("pre_logits", [0, pytest.param(48, marks=pytest.mark.slow)])
def test_google_vision_transformer(pre_logits, tmp_path):
    draw = google.Draw(1)
    google.draw_embedding(draw, 8, 3, 192, grid=4)
    google.draw_transformer(draw, 192, 3, 3, classes=5, pre_logits=pre_logits)
    path = tmp_path / "vit.npz"
    np.savez(path, **draw.arrays)
    assert pretrained.open_weights(str(path)).unseen == {"epsilon": 1e-6, "gelu": "tanh"}
    model, variables = load(path, num_classes=5, image_size=48)
    batch = images(48)
    positions = np.asarray(variables["params"]["pos_embed"])
    resized = draw.arrays | {"Transformer/posembed_input/pos_embedding": positions}
    middle, logits = outputs(model, variables, batch, after="block1")
    expected_middle, expected = google.vit(resized, batch)
    same(logits, expected)
    same(middle, expected_middle)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stages",
    [pytest.param((1, 2), id="two_stages"), pytest.param((2, 1, 1, 1), id="four_stages")],
)
def test_google_hybrid(stages, tmp_path):
    draw = google.Draw(2)
    shrink = 2 ** (len(stages) + 1)
    draw.weight("conv_root/kernel", 7, 7, 3, 32)
    # Published files hold these two with axes of length 1.
    draw.vector("gn_root/scale", 1, 1, 1, 32, around=1)
    draw.vector("gn_root/bias", 1, 1, 1, 32)
    before = 32
    for stage, count in enumerate(stages, start=1):
        for index in range(1, count + 1):
            google.draw_hybrid_unit(
                draw, f"block{stage}/unit{index}/", before, 32 * 2 ** (stage - 1), project=index == 1
            )
            before = 4 * 32 * 2 ** (stage - 1)
    google.draw_embedding(draw, 1, before, 192, grid=64 // shrink)
    google.draw_transformer(draw, 192, 3, 3, classes=5, pre_logits=0)
    path = tmp_path / "hybrid.npz"
    np.savez(path, **draw.arrays)
    model, variables = load(path, num_classes=5, image_size=96)
    batch = images(96)
    positions = np.asarray(variables["params"]["pos_embed"])
    resized = draw.arrays | {"Transformer/posembed_input/pos_embedding": positions}
    middle, logits = outputs(model, variables, batch, after=f"layer{len(stages)}.{stages[-1] - 1}")
    expected_middle, _, expected = google.hybrid(resized, batch, stages)
    same(logits, expected)
    same(middle, expected_middle)


@pytest.mark.slow
def test_google_bit(tmp_path):
    draw = google.Draw(3)
    stages = (2, 1, 2)
    google.draw_bit(draw, stages, 32, classes=5)
    path = tmp_path / "BiT-M-R.npz"
    np.savez(path, **draw.arrays)
    model, variables = load(path, num_classes=5, image_size=50)
    batch = images(50)
    middle, logits = outputs(model, variables, batch, after="layer2.0")
    expected_middle, expected = google.bit(draw.arrays, batch, stages)
    same(logits, expected)
    same(middle, expected_middle)
