from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.train import mixing


def batch(rows=6, side=8, mask=None):
    """Row i shows the value i everywhere and has the label i."""
    image = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.float32)[:, None, None, None], (rows, side, side, 3))
    mask = jnp.ones(rows) if mask is None else jnp.asarray(mask, jnp.float32)
    return {"image": image, "label": jnp.arange(rows), "mask": mask}


WAYS = {
    "mixup": jax.jit(partial(mixing.mixup, alpha=1.0, num_classes=6)),
    "cutmix": jax.jit(partial(mixing.cutmix, alpha=1.0, num_classes=6)),
    "both": jax.jit(partial(mixing.mix, mixup_alpha=1.0, cutmix_alpha=1.0, num_classes=6)),
}


@pytest.mark.parametrize("way", WAYS)
def test_labels_tell_what_the_pixels_hold(way):
    mixed = WAYS[way](batch(), jax.random.key(0))
    np.testing.assert_allclose(mixed["label"].sum(-1), 1.0, rtol=1e-6)
    # As row i shows i, the mean of the pixels is the mean of the classes under the labels.
    expected = mixed["label"] @ jnp.arange(6.0)
    np.testing.assert_allclose(mixed["image"].mean((1, 2, 3)), expected, atol=1e-5)
    own = jnp.take_along_axis(mixed["label"], jnp.arange(6)[:, None], -1)[:, 0]
    assert len(np.unique(np.round(own, 4))) > 3  # Each row has a draw of its own.


def test_mixup_by_hand():
    key = jax.random.key(3)
    share = jax.jit(lambda key: jax.random.beta(key, 0.4, 0.4, (6,)))(key)
    mixed = jax.jit(partial(mixing.mixup, alpha=0.4, num_classes=6))(batch(), key)
    np.testing.assert_allclose(mixed["image"][2, 0, 0, 0], share[2] * 2 + (1 - share[2]) * 1, rtol=1e-6)
    np.testing.assert_allclose(mixed["label"][2], [0, 1 - share[2], share[2], 0, 0, 0], atol=1e-6)


def test_cutmix_pastes_one_rectangle():
    mixed = WAYS["cutmix"](batch(), jax.random.key(1))
    for row, image in enumerate(np.asarray(mixed["image"][..., 0])):
        other = image != row
        assert set(np.unique(image)) <= {row, (row - 1) % 6}
        ys, xs = np.flatnonzero(other.any(1)), np.flatnonzero(other.any(0))
        if other.any():
            assert other[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].all()


@pytest.mark.parametrize("way", WAYS)
def test_padding_never_leaks_into_a_row_that_counts(way):
    padded = batch(mask=[1, 1, 1, 1, 0, 0])
    padded["image"] = padded["image"].at[4:].set(np.nan)
    mixed = WAYS[way](padded, jax.random.key(2))
    # Row 0 follows the last row, which is padding, and stays itself.
    np.testing.assert_array_equal(np.asarray(mixed["label"][0]), [1, 0, 0, 0, 0, 0])
    assert np.isfinite(mixed["image"][:4]).all()
    np.testing.assert_array_equal(mixed["mask"], padded["mask"])


@pytest.mark.parametrize("way", WAYS)
def test_weights_mix_as_labels_do(way):
    weights = jnp.array([1.0, 3.0, 1.0, 0.5, 2.0, 4.0])
    mixed = WAYS[way](batch(mask=weights), jax.random.key(4))
    np.testing.assert_allclose(mixed["mask"], mixed["label"] @ weights, rtol=1e-6)
    np.testing.assert_array_equal(WAYS[way](batch(), jax.random.key(4))["mask"], jnp.ones(6))  # To the last bit.


def test_soft_labels_mix_again():
    once = WAYS["mixup"](batch(), jax.random.key(0))
    twice = WAYS["mixup"](once, jax.random.key(1))
    np.testing.assert_allclose(twice["label"].sum(-1), 1.0, rtol=1e-6)


def test_without_an_alpha_nothing_changes():
    same = mixing.mix(batch(), jax.random.key(0), mixup_alpha=0.0, cutmix_alpha=0.0, num_classes=6)
    np.testing.assert_array_equal(same["label"], jnp.arange(6))
