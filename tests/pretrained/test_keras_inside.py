"""Preprocessing and heads within a Keras model are taken where they are known, and never passed over in silence."""

import json

import keras
import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.preprocessing import HALF, PixelDefaults
from jaxtl.pretrained import layouts, rename
from jaxtl.pretrained.formats.arrays import Arrays
from jaxtl.pretrained.formats.keras_layers import config_layers
from jaxtl.pretrained.keras_head import _by_layers, _by_shapes, _Other
from jaxtl.pretrained.keras_model import check, prepare
from jaxtl.pretrained.keras_pixels import Unknown, pixels_inside

pytestmark = pytest.mark.filterwarnings("ignore")
layers = keras.layers
NONE = KeyMapping("keras", "keras", (), pixels=PixelDefaults(HALF, "bilinear", 1.0))
EFFICIENTNET = KeyMapping("keras", "keras", (), unused=(r"normalization/(mean|variance|count)",))


def _arrays(config="", **arrays):
    """Makes what a file gives; the names of arrays have "__" for their slash."""
    held = {name.replace("__", "/"): np.asarray(array, np.float32) for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in held.items()}
    loaders = {name: (lambda array=array: array) for name, array in held.items()}
    metadata = {"model_config": config, "layers": json.dumps(config_layers(config))}
    return Arrays("hdf5", shapes, loaders, metadata)


def _inside(first, **arrays):
    """Reads the pixels of a model whose convolution follows what `first` does."""
    keras.utils.clear_session(free_memory=False)
    images = keras.Input((8, 8, 3))
    module = keras.Model(images, layers.Conv2D(2, 1, name="conv")(first(images)))
    return pixels_inside(_arrays(module.to_json(), conv__kernel=np.ones((1, 1, 3, 2)), **arrays), NONE)


def _apart(order, axis=-1):
    return lambda x: keras.ops.stack([x[..., each] for each in order], axis=axis)


UNKNOWN = {
    "lambda": lambda x: layers.Lambda(lambda batch: batch / 255)(x),
    "maximum": lambda x: keras.ops.maximum(x, 0.0),
    "subtract": lambda x: 1.0 - x,
    "get_item": lambda x: x[:, ::-1],
    "get_item_1": lambda x: keras.ops.add(x[..., :], x[..., 1:2]),
    "stack": _apart([1, 0, 2]),
    "stack of too many": _apart([2, 1, 0, 0]),
    "flip": lambda x: keras.ops.flip(x, axis=1),
    "rescaling": lambda x: layers.Rescaling(-1 / 255)(x),
    "normalization": lambda x: layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0] * 3, invert=True)(x),
    "true_divide": lambda x: keras.ops.stack([x[..., 0] / 2, x[..., 1], x[..., 2]], axis=-1),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_preprocessing_that_is_not_known_is_told_from_none(name):
    found = _inside(UNKNOWN[name])
    assert isinstance(found, Unknown)
    assert f"its layer {name.partition(' ')[0]} of the class" in found.reason or name == "rescaling"
    assert "save the model without it, and say what it does by mean and std" in found.reason


def test_a_normalization_without_its_arrays_is_unknown():
    found = _inside(lambda x: layers.Normalization(name="adapted")(x))
    assert isinstance(found, Unknown)
    assert "its layer adapted of the class normalization" in found.reason


def test_nothing_is_none():
    assert _inside(lambda x: layers.RandomFlip()(layers.ZeroPadding2D(1)(x))) is None
    assert _inside(lambda x: layers.Resizing(8, 8)(x[..., :])) is None


@pytest.mark.parametrize(
    "turn",
    [lambda x: x[..., ::-1], lambda x: x[:, :, :, ::-1], lambda x: keras.ops.flip(x, axis=-1), _apart([2, 1, 0])],
)
def test_channels_that_are_turned_are_seen(turn):
    found = _inside(lambda x: turn(x) - np.float32([10, 20, 30]))
    assert found.turned
    # The summands are for blue, green and red.
    np.testing.assert_allclose(found.statistics, [[30 / 255, 20 / 255, 10 / 255], [1 / 255] * 3], rtol=1e-6)


def test_channels_that_are_turned_twice_or_put_together_as_they_were_are_not_turned():
    for same in (_apart([0, 1, 2]), lambda x: x[..., ::-1][..., ::-1], lambda x: _apart([2, 1, 0])(x[..., ::-1])):
        found = _inside(lambda x, same=same: (same(x) - np.float32([10, 20, 30])) * 2)
        assert not found.turned
        np.testing.assert_allclose(found.statistics, [[10 / 255, 20 / 255, 30 / 255], [0.5 / 255] * 3], rtol=1e-6)


def test_what_the_functions_of_keras_leave_behind():
    caffe = _inside(keras.applications.resnet50.preprocess_input)
    assert caffe.turned
    np.testing.assert_allclose(caffe.statistics[0], [123.68 / 255, 116.779 / 255, 103.939 / 255], rtol=1e-6)
    half = _inside(keras.applications.mobilenet.preprocess_input)
    assert not half.turned
    np.testing.assert_allclose(half.statistics, [[0.5] * 3] * 2, rtol=1e-6)
    torch = _inside(keras.applications.densenet.preprocess_input)
    np.testing.assert_allclose(torch.statistics, [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], rtol=1e-5)


def test_the_constant_of_a_product_may_come_first():
    np.testing.assert_allclose(_inside(lambda x: (1 / 255) * x).statistics, [[0] * 3, [1] * 3])


def test_an_unknown_step_is_refused_with_the_arguments_that_say_it():
    keras.utils.clear_session(free_memory=False)
    images = keras.Input((8, 8, 3))
    x = layers.Lambda(lambda batch: batch / 255, name="scale")(images)
    config = keras.Model(images, layers.Conv2D(2, 1, name="conv")(x)).to_json()
    arrays = _arrays(config, conv__kernel=np.ones((1, 1, 3, 2)))
    key_mapping, inside, obstacle = prepare(arrays, NONE)
    assert (key_mapping, inside) == (NONE, "")
    with pytest.raises(UserError, match=r"^x\.keras: what its layer scale of the class lambda does") as caught:
        check("x.keras", arrays, rename.Plan({}, (), ()), obstacle)
    assert caught.value.arguments == ("mean", "std")


def test_without_a_configuration_a_normalization_is_read_where_its_convention_has_one():
    statistics = {"normalization__mean": [0.4, 0.5, 0.6], "normalization__variance": [0.04, 0.09, 0.16]}
    found = pixels_inside(_arrays(**statistics), EFFICIENTNET)
    np.testing.assert_allclose(found.statistics, [[0.4, 0.5, 0.6], [0.2, 0.3, 0.4]], rtol=1e-6)
    assert pixels_inside(_arrays(conv__kernel=1), EFFICIENTNET) is None
    elsewhere = pixels_inside(_arrays(**statistics), NONE)
    assert "its layer normalization normalises pixels" in elsewhere.reason
    other = pixels_inside(_arrays(**statistics, own__mean=[0.0], own__variance=[1.0]), EFFICIENTNET)
    assert "its layer own normalises pixels" in other.reason
    large = _arrays(normalization__mean=[120, 110, 100], normalization__variance=[3000] * 3)
    assert "are not those of pixels in [0, 1]" in pixels_inside(large, EFFICIENTNET).reason
    assert "save it as .keras" in pixels_inside(large, EFFICIENTNET).reason


def _model(*top, first=()):
    keras.utils.clear_session(free_memory=False)
    relus = [layers.ReLU(6.0, name=f"relu{number}") for number in range(2)]
    network = [layers.Conv2D(4, 1, name="conv"), relus[0], layers.Conv2D(4, 1, name="last"), relus[1]]
    module = keras.Sequential([keras.Input((8, 8, 3)), *first, *network, *top])
    held = {variable.path: variable.numpy() for variable in module.weights}
    return _arrays(module.to_json(), **{"/".join(path.split("/")[-2:]): array for path, array in held.items()})


def _plan(arrays):
    known = {name: (rename.Part(name, layouts.SAME),) for name in arrays if name.startswith(("conv/", "last/"))}
    return rename.Plan(known, (), tuple(name for name in arrays if name not in known))


def _head(*top):
    arrays = _model(*top)
    plan = _plan(arrays)
    return _by_layers(arrays, NONE, plan, list(dict.fromkeys(name.rpartition("/")[0] for name in plan.unknown)))


POOL = layers.GlobalAveragePooling2D
KNOWN = [
    [POOL(), layers.Dense(5)],
    [POOL(), layers.Dense(5), layers.Activation("softmax")],
    [POOL(), layers.Dense(1, activation="sigmoid")],
    [POOL(), layers.Dense(1), layers.Activation("sigmoid")],
    [layers.Activation("linear"), POOL(), layers.Dense(5, activation="softmax")],
]


@pytest.mark.parametrize("top", KNOWN)
def test_heads_that_are_known(top):
    assert _head(*top) == ([layer.name for layer in top if isinstance(layer, layers.Dense)], "avg")


def test_an_activation_of_its_own_may_follow_a_dense_layer():
    dense, _ = _head(POOL(), layers.Dense(8), layers.Activation("relu"), layers.Dense(5))
    assert len(dense) == 2


OTHERS = [
    ([POOL(), layers.Activation("tanh"), layers.Dense(5)], r"a layer of the class activation \(tanh\)"),
    ([layers.Activation("tanh"), POOL(), layers.Dense(5)], r"a layer of the class activation \(tanh\)"),
    ([layers.ReLU(6.0), POOL(), layers.Dense(5)], r"a layer of the class re_lu \(relu of \[6\.0"),
    ([POOL(), layers.ReLU(6.0), layers.Dense(5)], r"a layer of the class re_lu"),
    ([POOL(), layers.Dense(8, "tanh"), layers.Activation("relu"), layers.Dense(5)], r"class activation \(relu\)"),
    ([POOL(), layers.Dense(5), layers.ReLU()], "a layer of the class re_lu"),
    (
        [POOL(), layers.Dense(5, "sigmoid")],
        "the activations are sigmoid; known are relu, at the end linear",
    ),
    ([POOL(), layers.Dense(1)], "the activations are linear; .* of one output sigmoid"),
    ([POOL(), layers.Dense(1, "softmax")], "the activations are softmax; .* of one output sigmoid"),
]


@pytest.mark.parametrize(("top", "reason"), OTHERS)
def test_heads_that_are_others(top, reason):
    with pytest.raises(_Other, match=reason):
        _head(*top)


def test_without_a_configuration_one_output_may_be_anything():
    with pytest.raises(_Other, match=r"it has one output, .* save it as \.keras"):
        _by_shapes(_arrays(dense__kernel=np.ones((4, 1)), dense__bias=[0]), NONE, ["dense"])
    assert _by_shapes(_arrays(dense__kernel=np.ones((4, 2)), dense__bias=[0] * 2), NONE, ["dense"]) == ["dense"]


def test_a_model_of_a_class_of_ones_own_does_not_list_its_layers():
    arrays = _arrays(json.dumps({"class_name": "Mine", "config": {}}), conv__kernel=1, dense__kernel=np.ones((4, 2)))
    with pytest.raises(_Other, match="does not list the layers of its model: save it as a functional model"):
        _by_layers(arrays, NONE, _plan(arrays), ["dense"])
    _, _, obstacle = prepare(arrays, NONE)
    with pytest.raises(UserError, match=r"the file does not list .*: save it as a functional model\.$"):
        check("x.keras", arrays, _plan(arrays), obstacle)


def test_a_layer_with_weights_before_the_network_is_refused():
    arrays = _model(POOL(), layers.Dense(5), first=[layers.BatchNormalization(name="first")])
    with pytest.raises(UserError, match="x: its layers first come before the last layer of the network"):
        check("x", arrays, _plan(arrays), "")
    check("x", _arrays(), _plan(arrays), "")
    after = _model(POOL(), layers.BatchNormalization(name="first"), layers.Dense(5))
    check("x", after, _plan(after), "")


def test_files_opened_anew_leave_no_rules_behind():
    before = rename._rules.cache_info().currsize
    for _ in range(3):
        rename.plan(["conv/kernel"], KeyMapping("keras", "keras", (("conv", "stem/conv", "conv"),)))
    assert rename._rules.cache_info().currsize <= before + 1
