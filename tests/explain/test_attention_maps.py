from functools import partial

import jax
import numpy as np
import pytest
from linear import draw, normal

from jaxtl import models
from jaxtl.explain.attention_maps import gradient_attention, rollout
from jaxtl.explain.methods import explain_images
from jaxtl.models.layers.attention_weights import reading

VIT = "vit_s16:patch=8,width=16,depth=2,heads=2,image_size=32"
SWIN = "swin_t:blocks=2-2,heads=1-2,width=8,window=4,image_size=64"
CLASSES = np.array([2, 0])


def build(name, **options):
    model = models.build(name, num_classes=3, options=models.ModelOptions(**options))
    return model, draw(model, scale=3.0), normal(2, model.image_size, model.image_size, 3)


@partial(jax.jit, static_argnums=0)
def compute_weights(model, variables, images):
    kept = []

    def keep(weights):
        kept.append(weights)
        return weights

    with reading(keep):
        model.apply(variables, images)
    return kept


def weights_of(model, variables, images):
    return [np.asarray(layer, np.float64) for layer in compute_weights(model, variables, images)]


def enlarged(maps, side):
    return jax.image.resize(maps, (len(maps), side, side), "bilinear")


def test_rollout_of_a_vit_is_the_product_of_its_matrices():
    model, variables, images = build(VIT)
    first, last = (layer.mean(1) for layer in weights_of(model, variables, images))
    assert (first.shape, last.shape) == ((2, 17, 17), (2, 1, 17))
    # Of the last block the class token's row alone is computed.
    expected = ((last + np.eye(1, 17)) / 2) @ ((first + np.eye(17)) / 2)
    found = rollout(model, variables, images, CLASSES)
    np.testing.assert_allclose(found, enlarged(expected[:, 0, 1:].reshape(2, 4, 4), 32), rtol=1e-4)


def whole(layer, side, window, shift):
    """Lays the matrices of windows [W, n, n] out as one between all places of a map, by their places alone."""
    matrix = np.zeros((side * side, side * side))
    places = [(i, j) for i in range(side) for j in range(side)]
    for asks in places:
        for asked in places:
            number, other = ((i // window) * (side // window) + j // window for i, j in (asks, asked))
            if number == other:
                row, column = ((i % window) * window + j % window for i, j in (asks, asked))
                at = tuple((i + shift) % side * side + (j + shift) % side for i, j in (asks, asked))
                matrix[at] = layer[number, row, column]
    return matrix


@pytest.mark.slow
def test_rollout_of_swin_is_the_product_of_its_matrices_over_the_whole_map():
    model, variables, images = build(SWIN)
    layers = [layer[0].mean(1) for layer in weights_of(model, variables, images)]
    matrices = [
        whole(layers[0], 16, 4, 0),
        whole(layers[1], 16, 4, 2),
        whole(layers[2], 8, 4, 0),
        whole(layers[3], 8, 4, 2),
    ]
    for matrix in matrices:
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
    first = np.linalg.multi_dot([(matrix + np.eye(256)) / 2 for matrix in matrices[1::-1]])
    last = np.linalg.multi_dot([(matrix + np.eye(64)) / 2 for matrix in matrices[:1:-1]])
    merging = np.zeros((64, 256))
    for place in range(256):
        merging[place // 32 * 8 + place % 16 // 2, place] = 1 / 4
    expected = (np.full(64, 1 / 64) @ last @ merging @ first).reshape(1, 16, 16)
    found = rollout(model, variables, images, CLASSES)
    np.testing.assert_allclose(found[:1], enlarged(expected, 64), rtol=1e-4)


@pytest.mark.slow
def test_gradient_attention_of_a_vit_is_chefers():
    model, variables, images = build(VIT)
    first, last = weights_of(model, variables, images)
    shares = []
    for layer, values in enumerate((first, last)):
        # The gradient by the weights of one layer, all others as they are.
        def score(added, layer=layer):
            count = iter(range(2))
            with reading(lambda weights: weights + added if next(count) == layer else weights):
                return model.apply(variables, images)[np.arange(2), CLASSES].sum()

        gradient = np.asarray(jax.jit(jax.grad(score))(np.zeros(values.shape, np.float32)))
        shares.append(np.maximum(gradient * values, 0).mean(1))
    expected = (shares[1] + np.eye(1, 17)) @ (shares[0] + np.eye(17)) - np.eye(1, 17)
    found = gradient_attention(model, variables, images, CLASSES)
    expected = expected[:, 0, 1:].reshape(2, 4, 4)
    np.testing.assert_allclose(found, enlarged(expected, 32), atol=1e-4 * expected.max())


@pytest.mark.slow
def test_blocks_in_a_loop_and_fused_attention_give_the_same_maps():
    plain, variables, images = build(VIT.replace("depth=2", "depth=3"))
    looped = build(VIT.replace("depth=2", "depth=3"), scan=True, remat=True, attention="xla")[0]
    for method in ("rollout", "gradient_attention", "grad_cam"):
        found, expected = (explain_images(model, variables, images, CLASSES, method) for model in (looped, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_nothing_is_left_in_the_program_when_nobody_reads():
    model, variables, images = build(VIT)
    program = str(jax.make_jaxpr(model.apply)(variables, images))
    with reading(lambda weights: weights):
        assert str(jax.make_jaxpr(model.apply)(variables, images)) == program
    assert set(jax.eval_shape(model.init, jax.random.key(0), images)) == {"params"}
