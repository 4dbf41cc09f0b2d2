"""Heads: poolings, hidden layers and one logit, for every family; and the least images that each takes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES, FAST

from jaxtl import models
from jaxtl.errors import UserError
from jaxtl.finetune import param_groups
from jaxtl.models.head import Head, asked_fields, pool
from jaxtl.pretrained.load import abstract_variables
from jaxtl.train.losses import class_weighted, focal_loss, softmax_cross_entropy
from jaxtl.trees import nest

VGG = "vgg11:convs=1-1,width=4,hidden=8"
RESNET = "resnet18:stages=1-1,width=4"
VIT = "vit_s16:patch=8,width=16,depth=2,heads=2"


@pytest.mark.parametrize(
    ("how", "hidden", "single", "fields"),
    [
        ("", "", False, {}),
        ("own", "0", False, {"head_pool": "", "head_hidden": ()}),
        ("avg+max", "512, 256", True, {"head_pool": "avg+max", "head_hidden": (512, 256), "single_logit": True}),
        ("flatten", 256, False, {"head_pool": "flatten", "head_hidden": (256,)}),
    ],
)
def test_the_fields_of_a_head_that_is_asked_for(how, hidden, single, fields):
    assert asked_fields(how, hidden, single) == fields


def test_poolings():
    maps = jnp.arange(8.0).reshape(1, 2, 2, 2)  # Channel 0: 0 2 4 6, channel 1: 1 3 5 7.
    expected = {"": [3, 4], "avg": [3, 4], "max": [6, 7], "avg+max": [3, 4, 6, 7], "flatten": [0, 1, 2, 3, 4, 5, 6, 7]}
    for how, values in expected.items():
        np.testing.assert_array_equal(pool(maps, how), [values])
        np.testing.assert_array_equal(pool(maps.reshape(1, 4, 2), how), [values])  # As tokens.


def test_a_head_by_hand():
    variables = {
        "params": {
            "hidden1": {"kernel": jnp.array([[1.0, -1.0], [2.0, 1.0]]), "bias": jnp.array([0.5, 0.0])},
            "kernel": jnp.array([[1.0], [3.0]]),
            "bias": jnp.array([-2.0]),
        }
    }
    # Features (1, -2): hidden (1 - 4 + 0.5, -1 - 2) = (-2.5, -3), cut off at 0; the logit is the bias.
    # Features (1, 2): hidden (5.5, 1); 5.5 + 3 - 2 = 6.5.
    logits = Head(2, (2,), single_logit=True).apply(variables, jnp.array([[1.0, -2.0], [1.0, 2.0]]), train=False)
    np.testing.assert_allclose(logits, [[0.0, -2.0], [0.0, 6.5]])


def test_one_logit_has_the_loss_and_the_gradient_of_binary_cross_entropy():
    z = jnp.array([2.0, -1.0, 0.5])
    # log(1 + exp(-2)), log(1 + exp(-1)) and log(1 + exp(-0.5)): classes 1, 0 and 1.
    labels, losses = jnp.array([1, 0, 1]), [0.12692801, 0.31326169, 0.47407698]
    gradients = [0.88079708 - 1, 0.26894142, 0.62245933 - 1]  # sigmoid(z) - y

    def loss(z, targets=labels, **options):
        logits = jnp.pad(z[:, None], ((0, 0), (1, 0)))
        return softmax_cross_entropy(logits, targets, **options)

    np.testing.assert_allclose(loss(z), losses, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda z: loss(z).sum())(z), gradients, rtol=1e-5)
    # Smoothing by 0.2 makes 1 to 0.9 and 0 to 0.1, as Keras does for one sigmoid.
    y = jnp.array([0.9, 0.1, 0.9])
    smoothed = jnp.log1p(jnp.exp(z)) - y * z
    np.testing.assert_allclose(loss(z, label_smoothing=0.2), smoothed, rtol=1e-5)
    gradient = jax.grad(lambda z: loss(z, label_smoothing=0.2).sum())(z)
    np.testing.assert_allclose(gradient, jax.nn.sigmoid(z) - y, rtol=1e-5)
    # Mixed labels: 0.7 of class 1.
    mixed = loss(z, jnp.array([[0.3, 0.7]] * 3))
    np.testing.assert_allclose(mixed, jnp.log1p(jnp.exp(z)) - 0.7 * z, rtol=1e-5)


def test_focal_loss_and_class_weights_of_one_logit():
    logits = jnp.array([[0.0, 2.0]])
    p = 0.88079708
    np.testing.assert_allclose(focal_loss(logits, jnp.array([1]), gamma=2.0), [(1 - p) ** 2 * 0.12692801], rtol=1e-5)
    weighted = class_weighted(softmax_cross_entropy, [1.0, 3.0])
    np.testing.assert_allclose(weighted(logits, jnp.array([1])), [3 * 0.12692801], rtol=1e-6)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in FAMILIES]
)
def test_every_family_takes_a_head_of_another_form_and_its_least_images(name, monkeypatch):
    pooled = []
    monkeypatch.setattr("jaxtl.models.head.pool", lambda x, how: pooled.append((x.ndim, how)) or pool(x, how))
    asked = models.with_fields(name, head_pool="flatten", head_hidden=(6, 5), single_logit=True)
    size = models.build(name, num_classes=2).min_size
    model = models.build(asked, num_classes=2, image_size=size)
    leaves = abstract_variables(model, size)
    head = {path: leaf.shape for path, leaf in leaves.items() if path.startswith("params/head/")}
    features = head["params/head/hidden1/kernel"][0]
    assert features > 0  # Of the least images something is left to flatten.
    assert pooled in ([(4, "flatten")], [(3, "flatten")])  # Maps or tokens.
    assert head == {
        "params/head/hidden1/kernel": (features, 6),
        "params/head/hidden1/bias": (6,),
        "params/head/hidden2/kernel": (6, 5),
        "params/head/hidden2/bias": (5,),
        "params/head/kernel": (5, 1),
        "params/head/bias": (1,),
    }
    assignment = param_groups.assign(nest(leaves)["params"], model.groups())  # Covers all, and leaves no group empty.
    trained = param_groups.select(assignment, "head")
    assert {f"params/{path}" for path, label in trained.items() if label == "head"} == set(head)
    # Dense layers of the family's own are left out, and nothing else.
    own = dict(models.build(name, num_classes=2).groups())
    assert set(model.left_out()) == set(own) - set(dict(model.groups()))
    assert set(model.left_out()) <= {"fc", "fc1", "fc2"}

    if size > 1:
        with pytest.raises(UserError, match=f"{size}"):
            models.build(name, num_classes=2, image_size=size - 1)
    if size > 1 and not hasattr(model, "patch"):  # A ViT cannot be built for half a patch.
        try:
            smaller = abstract_variables(model.clone(image_size=size - 1), size - 1)
        except (ValueError, TypeError, ZeroDivisionError):
            return
        assert smaller["params/head/hidden1/kernel"].shape[0] == 0


@pytest.mark.parametrize(
    "name",
    [VGG, RESNET, VIT, pytest.param(f"{VIT},pool=mean,class_token=false,norm_after_pool=true", marks=pytest.mark.slow)],
)
def test_poolings_are_those_of_the_same_maps(name):
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    found, leaves = {}, None
    for how in ("flatten", "avg", "max", "avg+max"):
        model = models.build(models.with_fields(name, head_pool=how), num_classes=0, image_size=16)
        leaves = leaves or jax.jit(model.init)(jax.random.key(0), images)
        found[how] = np.asarray(jax.jit(model.apply)(leaves, images))
    width = found["avg"].shape[1]
    maps = found["flatten"].reshape(2, -1, width)
    assert maps.shape[1] > 1
    np.testing.assert_allclose(found["avg"], maps.mean(1), atol=1e-6)
    np.testing.assert_array_equal(found["max"], maps.max(1))
    np.testing.assert_array_equal(found["avg+max"], np.concatenate([found["avg"], found["max"]], 1))
    if name == RESNET:
        own = models.build(name, num_classes=0, image_size=16)
        np.testing.assert_array_equal(jax.jit(own.apply)(leaves, images), found["avg"])


def test_what_the_last_group_gives_is_pooled_so_that_a_feature_cache_keeps_no_more_than_it_must():
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    for how, width in (("avg", 8), ("avg+max", 16), ("flatten", 2 * 2 * 8), ("", 8)):
        model = models.build(models.with_fields(RESNET, head_pool=how, head_hidden=(3,)), num_classes=4, image_size=16)
        leaves = nest(abstract_variables(model, 16))
        stop = model.groups()[-2][0]
        last = jax.eval_shape(lambda tree, x, m=model, s=stop: m.apply(tree, x, stop=s), leaves, images)
        assert last.shape == (2, width)


def test_a_distilled_vit_with_hidden_layers_has_one_head():
    name = "deit_s16_distilled:patch=8,width=16,depth=2,heads=2,teacher_head=true,head_hidden=5"
    leaves = abstract_variables(models.build(name, num_classes=3, image_size=16), 16)
    head = {path for path in leaves if "head" in path}
    assert head == {f"params/head/{part}{kind}" for part in ("hidden1/", "") for kind in ("kernel", "bias")}


def test_messages_about_sizes():
    with pytest.raises(UserError, match="image_size 64 is below the least that inception_v3 takes, 75"):
        models.build("inception_v3", num_classes=2, image_size=64)
    model = models.build("inception_v3", num_classes=2, image_size=298)
    with pytest.raises(
        UserError, match="takes in training, 299; without its auxiliary heads, inception_v3:aux=false, it "
    ):
        models.check_size("inception_v3", model, training=True)
    models.check_size("inception_v3", model.clone(image_size=299), training=True)
    models.check_size("inception_v3", model.clone(aux=False), training=True)


def test_what_a_head_cannot_be():
    with pytest.raises(UserError, match="one logit tells two classes apart, and there are 3"):
        models.build("resnet18:single_logit=true", num_classes=3)
    with pytest.raises(UserError, match="'avrage' is none of flatten, avg, max, "):
        models.build("resnet18:head_pool=avrage", num_classes=3)
    with pytest.raises(UserError, match="each layer needs a width of 1 or more"):
        models.build("resnet18:head_hidden=16-0", num_classes=3)
    assert models.with_fields("vit_ti16", head_pool="") == "vit_ti16"
    assert models.with_fields("vgg11:head_hidden=8-4,width=8", head_hidden=()) == "vgg11:width=8"


def test_dropout_comes_before_each_layer_in_training_alone():
    x = jnp.ones((64, 32))
    head = Head(3, (4096,), dropout=0.5)
    variables = jax.jit(partial(head.init, train=False))(jax.random.key(0), x)
    variables["params"]["kernel"] = jnp.ones((4096, 3))
    calm = jax.jit(partial(head.apply, train=False))(variables, x)
    drawn = jax.jit(partial(head.apply, train=True, rngs={"dropout": jax.random.key(1)}))(variables, x)
    np.testing.assert_array_equal(calm, jnp.broadcast_to(calm[:1], calm.shape))
    assert len(np.unique(np.asarray(drawn)[:, 0])) == 64
