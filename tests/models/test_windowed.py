"""Swin and MaxViT: their groups, what their windows see, and what becomes of weights at another size of images."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models
from jaxtl.errors import UserError
from jaxtl.models.resize import resize_offsets
from jaxtl.models.swin_transformer import neighbours, shift_mask
from jaxtl.pretrained.load import abstract_variables

SWIN = "swin_t:blocks=2-1,heads=1-2,width=8,window=4"
MAXVIT = "maxvit_t:blocks=1-1,width=32,stem_width=8"


def test_groups():
    third = {"swin_t": "stage3.0 stage3.1 stage3.2 stage3.3 stage3.4 stage3.5"}
    third["maxvit_t"] = third["swin_t"].removesuffix(" stage3.5")
    for name, blocks in third.items():
        expected = f"stem stage1.0 stage1.1 stage2.0 stage2.1 {blocks} stage4.0 stage4.1 head"
        assert [group for group, _ in models.build(name, num_classes=2).groups()] == expected.split()


def test_neighbours_are_joined_column_by_column():
    x = jnp.arange(3 * 4).reshape(1, 3, 4, 1)
    np.testing.assert_array_equal(neighbours(x)[0], [[[0, 4, 1, 5], [2, 6, 3, 7]], [[8, 0, 9, 0], [10, 0, 11, 0]]])


def test_what_a_shift_brought_together_is_kept_apart():
    mask = np.asarray(shift_mask((4, 4), (2, 2), (1, 1)))[:, 0]
    # The first window lies as it did; in the one below it, the second row came from the other end of the map.
    np.testing.assert_array_equal(mask[0], np.zeros((4, 4)))
    rows = np.array([0, 0, 1, 1])
    np.testing.assert_array_equal(mask[2] < 0, rows[:, None] != rows[None])
    # In the last window each place came from elsewhere.
    np.testing.assert_array_equal(mask[3] < 0, ~np.eye(4, dtype=bool))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (SWIN, 30, "image_size 30 is no multiple of 4, the side of its patches"),
        ("swin_t:blocks=2-2", 32, "4 numbers of heads are given for 2 stages"),
        ("maxvit_t", 200, "image_size 200 is no multiple of 32, 32 pixels for each place of a window"),
        ("maxvit_t:window=7", 256, "image_size 256 is no multiple of 224, 32 pixels for each place of a window"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name, size, message):
    with pytest.raises(UserError, match=message):
        models.build(name, num_classes=2, image_size=size)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(("name", "kernel"), [(SWIN, (4, 4)), (MAXVIT, (3, 3))])
def test_images_may_have_other_channels(name, kernel, channels):
    model = models.build(name, num_classes=2, image_size=32)
    leaves = abstract_variables(model, 32, channels)
    assert leaves[model.first_layer].shape == (*kernel, channels, 8)
    fit = model.fit(model.first_layer, (*kernel, 3, 8), (*kernel, channels, 8), positions="")
    assert fit(np.ones((*kernel, 3, 8), np.float32)).shape == (*kernel, channels, 8)


@pytest.mark.parametrize(("name", "places"), [(SWIN + ",shift_first=true", 5 * 5), (MAXVIT, 7 * 7)])
def test_tables_of_biases_are_resized_with_the_windows(name, places):
    table = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    model = models.build(name, num_classes=2, image_size=24 if "swin" in name else 32)
    fit = model.fit("params/stage2.0/window/attn/relative_bias", (9, 2), (places, 2), positions="")
    np.testing.assert_array_equal(fit(table), resize_offsets(table, places))
    assert model.fit("params/stage2.0/window/attn/relative_bias", (9, 2), (places, 3), positions="") is None
    # No offset stays no offset.
    np.testing.assert_allclose(fit(table)[places // 2], table[4], atol=1e-6)


def test_windows_of_timm_are_no_larger_than_the_map():
    shapes = {}
    for first in ("true", "false"):
        model = models.build(f"{SWIN},shift_first={first}", num_classes=2, image_size=24)
        leaves = abstract_variables(model, 24)
        shapes[first] = [leaves[f"params/stage{stage}.0/attn/relative_bias"].shape for stage in (1, 2)]
    assert shapes == {"true": [(49, 1), (25, 2)], "false": [(49, 1), (49, 2)]}


def test_weight_decay_leaves_the_tables_alone():
    for name in (SWIN, MAXVIT):
        model = models.build(name, num_classes=2, image_size=32)
        leaves = [path.removeprefix("params/") for path in abstract_variables(model, 32) if path.startswith("params/")]
        spared = [path for path in leaves if any(re.fullmatch(p, path) for p in model.no_weight_decay())]
        assert spared
        assert spared == [path for path in leaves if path.endswith("relative_bias")]


@pytest.mark.parametrize("name", [SWIN, MAXVIT])
def test_remat_changes_no_parameter(name):
    shapes = []
    for remat in (False, True):
        model = models.build(name, num_classes=2, image_size=32, options=models.ModelOptions(remat=remat))
        shapes.append(jax.eval_shape(lambda m=model: m.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)))))
    assert shapes[0] == shapes[1]
