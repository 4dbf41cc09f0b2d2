import flax.linen as nn
import jax
import numpy as np
import pytest
from linear import Maps, draw, normal
from scipy.stats import rankdata

from jaxtl import models
from jaxtl.errors import UserError
from jaxtl.explain.methods import METHODS, choose_method, explain_images, suitable_methods
from jaxtl.explain.target import scores

VIT = "vit_s16:patch=8,width=16,depth=2,heads=2,image_size=32"
SWIN = "swin_t:blocks=2-2,heads=1-2,width=8,window=4,image_size=64"
RESNET = "resnet18:stages=1-1,width=8,image_size=32"


def build(name):
    return Maps() if name == "maps" else models.build(name, num_classes=3)


def cases():
    """Gives every network with each of its methods: those of the smallest network are quick."""
    quick = {("maps", "grad_cam"), ("maps", "integrated_gradients"), ("maps", "occlusion")}
    for name in ("maps", VIT, SWIN, RESNET):
        for method in suitable_methods(build(name)):
            marks = [] if (name, method) in quick else [pytest.mark.slow]
            yield pytest.param(name, method, id=f"{name.partition(':')[0]}-{method}", marks=marks)


def rank_correlations(maps, others):
    """Spearman's, of each map with its counterpart."""
    ranks = [rankdata(x.reshape(len(x), -1), axis=1) for x in (maps, others)]
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True) if a.std() * b.std() > 0])


@pytest.mark.parametrize(("name", "method"), list(cases()))
def test_maps_follow_the_weights_and_the_class(name, method):
    model = build(name)
    images = normal(4, model.image_size, model.image_size, 3)
    classes = np.array([0, 1, 2, 0])
    maps, others, of_others = (
        np.asarray(explain_images(model, draw(model, seed, scale=2.0), images, wanted, method))
        for seed, wanted in ((0, classes), (1, classes), (0, (classes + 1) % 3))
    )
    assert maps.shape == images.shape[:3]
    assert (maps.min() >= 0, maps.dtype) == (True, np.float32)
    assert (maps.max(axis=(1, 2)) > 0).sum() >= 3, "nothing speaks for the class in most images"
    assert rank_correlations(maps, others).mean() < 0.5
    if METHODS[method].follows_class:
        assert rank_correlations(maps, of_others).mean() < 0.7
    else:
        np.testing.assert_array_equal(maps, of_others)


def test_what_suits_a_model():
    vit, swin = build(VIT), build(SWIN)
    assert suitable_methods(vit) == suitable_methods(swin) == tuple(METHODS)
    assert suitable_methods(Maps()) == ("grad_cam", "integrated_gradients", "occlusion")
    assert [choose_method(model) for model in (vit, swin, Maps())] == ["gradient_attention", "grad_cam", "grad_cam"]
    with pytest.raises(UserError, match="'rollout' reads attention weights, and Maps has none; choose grad_cam, "):
        choose_method(Maps(), "rollout")
    with pytest.raises(UserError, match="no method 'oclusion'; did you mean 'occlusion'"):
        choose_method(vit, "oclusion")
    with pytest.raises(UserError, match="group 'conv' is for grad_cam alone"):
        explain_images(Maps(), {}, np.zeros((1, 8, 8, 3)), np.zeros(1), "occlusion", "conv")


def test_one_logit_for_two_classes_explains_both():
    class Head(nn.Module):
        single_logit: bool = True

    logits = jax.numpy.array([[0.0, 3.0], [0.0, 3.0]])
    np.testing.assert_array_equal(scores(Head(), logits, jax.numpy.array([0, 1])), [-3, 3])
