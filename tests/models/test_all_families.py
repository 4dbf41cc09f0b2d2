"""What holds for every family, found by tracing alone: no model is compiled or run."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest

from jaxtl import models
from jaxtl.errors import UserError
from jaxtl.explain.grad_cam import grad_cam, groups_with_maps
from jaxtl.explain.target import plain_form
from jaxtl.models.base import image_channels
from jaxtl.trees import flatten

# Small ones where a family has sizes; the others take their first variant.
SMALL = {
    "alexnet": "alexnet:width=16,hidden=8",
    "bit": "bit_r50x1:stages=1-1-1-1,width=32",
    "clip": "clip_b16:patch=8,width=32,depth=2,heads=2,image_size=32",
    "convnext": "convnext_t:blocks=1-2-1-1,width=8",
    "deit": "deit_s16_distilled:patch=8,width=32,depth=2,heads=2,image_size=32",
    "densenet": "densenet121:layers=1-2-1-1,width=8,growth=4",
    "dinov2": "dinov2_s14:patch=8,width=32,depth=2,heads=2,image_size=32",
    "efficientnet": "efficientnet_b0:depths=1-2-1-1-1-1-1",
    "efficientnet_v2": "efficientnet_v2_s:depths=1-1-2-1-2-1",
    "hybrid": "vit_r26_s32:stages=1-1,width=32,depth=2,heads=2,image_size=32",
    "maxvit": "maxvit_t:blocks=1-1,width=32,stem_width=8,image_size=32",
    "mobilenet_v2": "mobilenet_v2:depths=1-2-1-1-1-1-1",
    "resnet": "resnet50d:stages=1-1-1-1,width=8",
    "resnet_cifar": "resnet20_cifar:blocks=1",
    "resnet_v2": "resnet50v2:stages=1-1-1-1,width=8",
    "swin": "swin_t:blocks=2-1,heads=1-2,width=8,window=4,image_size=32",
    "vgg": "vgg11_bn:width=8,hidden=8",
    "vit": "vit_s16:patch=8,width=32,depth=2,heads=2,image_size=32",
}
FAMILIES = {family.__name__.rpartition(".")[2]: family for family in models.families()}
NAMES = {key: SMALL.get(key, next(iter(family.VARIANTS))) for key, family in FAMILIES.items()}


def cases(*quick):
    """Gives the models by the names of their families, those that are not quick in the slow part."""
    return [pytest.param(name, id=key, marks=[pytest.mark.slow] * (key not in quick)) for key, name in NAMES.items()]


# The others take a second and more to trace, and so do most of these in training.
TRACED = cases("alexnet", "convnext", "deit", "lenet", "resnet", "swin", "vit")
TRAINED = cases("resnet", "swin", "vit")


def build(name, **options):
    return models.build(name, num_classes=3, options=models.ModelOptions(**options))


@cache
def lay_out(model, *, channels=3, stop=None):
    """Gives images and variables of a model by shapes; with `stop` those of the first groups alone."""
    images = jax.ShapeDtypeStruct((2, model.image_size, model.image_size, channels), jnp.float32)
    return images, jax.eval_shape(partial(model.init, stop=stop), jax.random.key(0), images)


def training(model):
    """Gives the function of a batch in training mode, which updates statistics where there are any."""
    return lambda variables, images, key: model.apply(
        variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )


def primitives(jaxpr):
    """Names all operations of a computation, those within others too."""
    found = set()
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= primitives(inner)
    return found


@pytest.mark.parametrize("name", TRACED)
def test_every_parameter_is_in_one_group_and_the_groups_in_turn_are_the_model(name):
    model = build(name)
    images, variables = lay_out(model)
    groups = model.groups()
    assert groups[-1][0] == "head"
    for path in flatten(variables):
        inner = path.partition("/")[2]
        assert sum(re.match(rf"(?:{pattern})(?:/|$)", inner) is not None for _, pattern in groups) == 1, path
    assert model.head_path in flatten(variables)

    def in_turn(variables, x):
        for group, _ in groups:
            if not group.startswith("aux"):
                x = model.apply(variables, x, start=group, stop=group)
        return x

    # The same operations on the same arrays, to the letter.
    assert str(jax.make_jaxpr(in_turn)(variables, images)) == str(jax.make_jaxpr(model.apply)(variables, images))


@pytest.mark.parametrize("name", TRACED)
def test_images_may_have_one_three_or_four_channels(name):
    model = build(name)
    first = model.groups()[0][0]
    for channels in (1, 3, 4):
        _, variables = lay_out(model, channels=channels, stop=first)
        leaves = flatten(variables)
        assert image_channels(model, leaves) == channels
        kernel = leaves[model.first_layer]
        three = (*kernel.shape[:2], 3, *kernel.shape[3:])
        fit = model.fit(model.first_layer, three, kernel.shape, positions="bicubic")
        if channels != 3:
            assert fit(jnp.ones(three)).shape == kernel.shape


@pytest.mark.parametrize("name", TRAINED)
def test_half_precision_ends_in_float32_logits(name):
    model = build(name, dtype=jnp.bfloat16)
    images, variables = lay_out(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    before_head = [group for group, _ in model.groups() if not group.startswith("aux")][-2]
    features = jax.eval_shape(lambda v, x: model.apply(v, x, stop=before_head), variables, images)
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, start="head"), variables, features)
    assert (features.dtype, logits.dtype, logits.shape) == (jnp.bfloat16, jnp.float32, (2, 3))


@pytest.mark.parametrize("name", TRAINED)
def test_dropout_and_stochastic_depth_draw_in_training_alone(name):
    fields = models.complete_fields(name)
    rates = {option: 0.5 for option in ("dropout", "drop_path") if option in fields}
    assert "dropout" in rates
    model = build(name, **rates)
    images, variables = lay_out(model)
    assert "random_bits" not in primitives(jax.make_jaxpr(model.apply)(variables, images).jaxpr)
    for option, rate in rates.items():
        trained = jax.make_jaxpr(training(build(name, **{option: rate})))(variables, images, jax.random.key(0))
        assert "random_bits" in primitives(trained.jaxpr), option


@pytest.mark.parametrize("name", TRAINED)
def test_computing_twice_changes_no_parameter_and_no_result(name):
    if "remat" not in models.complete_fields(name):
        with pytest.raises(UserError, match="has no remat"):
            build(name, remat=True)
        return
    plain, twice = build(name), build(name, remat=True)
    images, variables = lay_out(plain)
    assert lay_out(twice)[1] == variables
    found, expected = (
        jax.make_jaxpr(training(model))(variables, images, jax.random.key(0)) for model in (twice, plain)
    )
    assert "remat2" in primitives(found.jaxpr) or "checkpoint" in primitives(found.jaxpr)
    assert not {"remat2", "checkpoint"} & primitives(expected.jaxpr)
    assert found.out_avals == expected.out_avals


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
def test_grad_cam_finds_maps(name):
    model = build(name)
    images, variables = lay_out(model)
    model, variables = plain_form(model, variables)
    classes = jax.ShapeDtypeStruct((2,), int)
    for group in ("", next(iter(groups_with_maps(model, variables, images)))):
        explain = partial(grad_cam, model, group=group)
        assert jax.eval_shape(explain, variables, images, classes).shape == images.shape[:3]
