"""Models that users build on a network of Keras are opened: the network, its preprocessing, a head that is known."""

import re

import h5py
import jax
import keras
import numpy as np
import pytest
from keras.src.applications import convnext, resnet
from keras_networks import CLASSES, make, normalised, photographs, randomise, run, save
from parity import load, same

from jaxtl import models, pretrained
from jaxtl.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")
layers, SIZE = keras.layers, 64


@pytest.fixture(autouse=True)
def keras_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def _base(size=SIZE, **arguments):
    return keras.applications.MobileNet(
        weights=None, include_top=False, alpha=0.25, input_shape=(size, size, 3), **arguments
    )


def _sequential():
    top = [layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(CLASSES)]
    module = keras.Sequential([keras.Input((SIZE, SIZE, 3)), _base(), *top])
    return module, keras.applications.mobilenet.preprocess_input


def _guide():
    """As in Keras' guide to transfer learning: augmentation and scaling within the model."""
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.RandomRotation(0.1)(layers.RandomFlip("horizontal")(images))
    x = layers.Rescaling(scale=1 / 100, offset=-0.5)(x)
    x = layers.GlobalAveragePooling2D()(_base()(x, training=False))
    return keras.Model(images, layers.Dense(CLASSES)(layers.Dropout(0.2)(x))), lambda batch: batch


def _functions():
    """With `preprocess_input` within the model, and the layers of the network in the model itself."""
    images = keras.Input((SIZE, SIZE, 3))
    base = keras.applications.MobileNet(
        weights=None,
        include_top=False,
        alpha=0.25,
        input_tensor=keras.applications.mobilenet.preprocess_input(images),
        pooling="avg",
    )
    return keras.Model(images, layers.Dense(CLASSES, name="species")(base.output)), lambda batch: batch


MODELS = {"sequential": _sequential, "guide": _guide, "functions": _functions}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_network_with_pooling_and_a_dense_layer(name, tmp_path):
    module, preprocess = MODELS[name]()
    randomise(module)
    batch = photographs(SIZE)
    (expected,), _ = run(module, preprocess(batch.copy()))
    for ending in (".keras", ".h5", ".weights.h5"):
        place = save(module, tmp_path, ending)
        opened = pretrained.open_weights(str(place))
        size = "" if "weights" in ending else "image_size=64,"
        assert opened.model == f"mobilenet_v1_025:{size}padding=keras,epsilon=0.001,momentum=0.99,unbiased=false"
        assert opened.notes == (f"the head is {'species' if name == 'functions' else 'dense'}",)
        assert opened.num_classes == CLASSES
        if ending == ".keras":
            model, variables = load(place, num_classes=CLASSES, image_size=SIZE)
            same(jax.jit(model.apply)(variables, normalised(batch, place)), expected)
        elif ending == ".h5":
            np.testing.assert_allclose(normalised(batch, place), normalised(batch, tmp_path / "network.keras"))


@pytest.mark.slow
def test_pixels_that_the_model_scales_are_scaled_the_same(tmp_path):
    module, _ = _guide()
    pixels = pretrained.open_weights(str(save(module, tmp_path, ".keras"))).pixels
    # x / 100 - 0.5 of x in 0 to 255.
    np.testing.assert_allclose(pixels.mean, [50 / 255] * 3, rtol=1e-6)
    np.testing.assert_allclose(pixels.std, [100 / 255] * 3, rtol=1e-6)


@pytest.mark.slow
def test_a_normalization_that_was_adapted_is_part_of_the_pixels(tmp_path):
    scale = layers.Normalization(name="scale")
    module = keras.Sequential([keras.Input((SIZE, SIZE, 3)), scale, _base(), layers.GlobalAveragePooling2D()])
    scale.set_weights([np.float32([100, 110, 120]), np.float32([400, 900, 1600]), np.int32(0)])
    opened = pretrained.open_weights(str(save(module, tmp_path, ".keras")))
    np.testing.assert_allclose(opened.pixels.mean, np.divide([100, 110, 120], 255), rtol=1e-6)
    np.testing.assert_allclose(opened.pixels.std, np.divide([20, 30, 40], 255), rtol=1e-6)
    assert (opened.notes, opened.plan.unknown) == ((), ())
    assert opened.plan.unused == ("scale/mean", "scale/variance", "scale/count")


def _on_base(*top, **arguments):
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), _base(**arguments), *top])


def _tutorial():
    hidden = layers.Dense(16, activation="relu")
    return _on_base(layers.Flatten(), hidden, layers.Dropout(0.5), layers.Dense(1, activation="sigmoid"))


KNOWN = {
    "head_hidden=16,head_pool=flatten,single_logit=true": _tutorial,
    "head_hidden=24-16,head_pool=max": lambda: _on_base(
        *(layers.GlobalMaxPooling2D(), layers.Dense(24), layers.Activation("relu"), layers.Dense(16, "relu")),
        layers.Dense(CLASSES, activation="softmax"),
    ),
    "head_pool=flatten": lambda: _on_base(layers.Flatten(), layers.Dense(CLASSES)),
}


@pytest.mark.slow
@pytest.mark.parametrize("fields", KNOWN)
def test_heads_with_hidden_layers_and_other_poolings(fields, tmp_path):
    module = randomise(KNOWN[fields]())
    place, batch = save(module, tmp_path, ".keras"), photographs(SIZE)
    opened = pretrained.open_weights(str(place))
    found = set(opened.model.partition(":")[2].split(","))
    assert {each for each in found if each.startswith(("head", "single"))} == set(fields.split(","))
    classes = 2 if "single" in fields else CLASSES
    assert opened.num_classes == classes
    model, variables = load(place, num_classes=classes, image_size=SIZE)
    logits = jax.jit(model.apply)(variables, normalised(batch, place))
    expected = run(module, keras.applications.mobilenet.preprocess_input(batch.copy()))[0][0]
    if "single" in fields:
        # So deep, random weights forget the image: of one class the spread tells nothing.
        assert 0.01 < expected.min() <= expected.max() < 0.99
        np.testing.assert_allclose(jax.nn.softmax(logits)[:, 1:], expected, atol=1e-4)
    elif "max" in fields:
        same(jax.nn.softmax(logits), expected)
    else:
        same(logits, expected)


def _on_inception(*top, twice=False):
    base = keras.applications.InceptionV3(weights=None, include_top=False, input_shape=(107, 107, 3))
    x = layers.Concatenate()([base.output] * 2) if twice else base.output
    for layer in top:
        x = layer(x)
    return keras.Model(base.input, x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("top", "fields"),
    [
        ((layers.GlobalAveragePooling2D, lambda: layers.Dense(CLASSES)), ()),
        (
            (lambda: layers.Activation("relu"), layers.GlobalMaxPooling2D, lambda: layers.Dense(CLASSES)),
            ("head_pool=max",),
        ),
        (
            (layers.Flatten, lambda: layers.Dense(8, "relu"), lambda: layers.Dense(CLASSES)),
            ("head_hidden=8", "head_pool=flatten"),
        ),
    ],
    ids=["avg", "another ReLU", "flatten"],
)
def test_the_head_of_a_network_that_ends_in_branches(top, fields, tmp_path):
    module = randomise(_on_inception(*(make_layer() for make_layer in top)))
    place, batch = save(module, tmp_path, ".keras"), photographs(107)
    opened = pretrained.open_weights(str(place))
    found = opened.model.partition(":")[2].split(",")
    assert tuple(each for each in found if each.startswith("head")) == fields
    model, variables = load(place, num_classes=CLASSES, image_size=107)
    expected = run(module, keras.applications.inception_v3.preprocess_input(batch.copy()))[0][0]
    same(jax.jit(model.apply)(variables, normalised(batch, place)), expected)


def _tanh():
    return _on_base(layers.GlobalAveragePooling2D(), layers.Dense(8, activation="tanh"), layers.Dense(CLASSES))


def _normalised():
    return _on_base(layers.GlobalAveragePooling2D(), layers.BatchNormalization(), layers.Dense(CLASSES))


@pytest.mark.parametrize(
    ("make_model", "ending", "obstacle"),
    [
        (_tanh, ".keras", "the activations are tanh, linear; known are relu"),
        pytest.param(*(_normalised, ".h5", "it has a layer of the class batch_normalization"), marks=pytest.mark.slow),
        pytest.param(
            *(_tutorial, ".weights.h5", "such a file does not tell their activations: save it as .keras"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(lambda: _on_base(layers.Dense(CLASSES), pooling="max"), ".weights.h5", "what is pooled by its maximum"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(KNOWN["head_pool=flatten"], ".weights.h5", "it reads 1,024 features, not the 256 that the network gives"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: _on_inception(layers.GlobalAveragePooling2D(), layers.Dense(CLASSES), twice=True),
            *(".keras", "it reads 4,096 features, not the 2,048 that the network gives"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_of_other_heads_the_network_is_loaded_and_the_rest_named(make_model, ending, obstacle, tmp_path):
    opened = pretrained.open_weights(str(save(make_model(), tmp_path, ending)))
    (note,) = opened.notes
    assert note.startswith("what follows the network is not loaded (")
    assert obstacle in note
    assert {name.rpartition("/")[0] for name in opened.plan.unused} >= {"dense"}
    assert opened.num_classes == 0
    assert not opened.plan.unknown


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (
            lambda: layers.Lambda(lambda batch: batch / 255, name="scale"),
            "what its layer scale of the class lambda does",
        ),
        (lambda: layers.BatchNormalization(name="first"), "its layers first come before the last layer of the network"),
    ],
)
def test_what_stands_before_a_network_is_never_passed_over(first, reason, tmp_path):
    module = keras.Sequential([keras.Input((SIZE, SIZE, 3)), first(), _base(pooling="avg"), layers.Dense(CLASSES)])
    with pytest.raises(UserError, match=reason):
        pretrained.open_weights(str(save(module, tmp_path, ".keras")))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["avg", None])
def test_convnext_without_its_top_normalises_before_or_after_the_pooling(pooling, tmp_path):
    base = convnext.ConvNeXt(
        *((1, 1, 1, 1), (8, 16, 32, 64)),
        name="convnext_tiny",
        include_top=False,
        input_shape=(SIZE, SIZE, 3),
        pooling=pooling,
    )
    pooled = [layers.GlobalAveragePooling2D()] if pooling is None else []
    module = randomise(keras.Sequential([keras.Input((SIZE, SIZE, 3)), base, *pooled, layers.Dense(CLASSES)]))
    place, batch = save(module, tmp_path, ".keras"), photographs(SIZE)
    model, variables = load(place, num_classes=CLASSES, image_size=SIZE)
    same(jax.jit(model.apply)(variables, normalised(batch, place)), run(module, batch)[0][0])


def _resnet(images, x):
    def body(x):
        x = resnet.stack_residual_blocks_v1(x, 64, 1, stride1=1, name="conv2")
        return resnet.stack_residual_blocks_v1(x, 128, 1, name="conv3")

    base = resnet.ResNet(
        body, False, use_bias=True, weights=None, input_shape=(SIZE, SIZE, 3), include_top=False, pooling="avg"
    )
    return keras.Model(images, layers.Dense(CLASSES)(base(x)))


@pytest.mark.slow
@pytest.mark.parametrize("turned", [True, False])
def test_a_resnet_sees_blue_first_only_where_its_model_turns_the_channels(turned, tmp_path):
    images = keras.Input((SIZE, SIZE, 3))
    scaled = keras.applications.resnet50.preprocess_input(images) if turned else layers.Rescaling(1 / 255)(images)
    module = randomise(_resnet(images, scaled))
    place, batch = save(module, tmp_path, ".keras"), photographs(SIZE)
    model, variables = load(place, num_classes=CLASSES, image_size=SIZE)
    same(jax.jit(model.apply)(variables, normalised(batch, place)), run(module, batch)[0][0])
    mean = pretrained.open_weights(str(place)).pixels.mean
    np.testing.assert_allclose(mean, [123.68 / 255, 116.779 / 255, 103.939 / 255] if turned else [0] * 3, atol=1e-6)


@pytest.mark.slow
def test_vgg_without_its_dense_layers(tmp_path):
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    module = keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)])
    opened = pretrained.open_weights(str(save(module, tmp_path, ".weights.h5")))
    assert (opened.model, opened.num_classes) == ("vgg16:head_pool=avg", CLASSES)


def _small_vgg(*, pool=True, extra=()):
    """A VGG16 without its top, whose layers are Keras' own but for their channels; `pool`: whether it is whole."""
    images = keras.Input((32, 32, 3))
    x = images
    for block, convs in enumerate((2, 2, 3, 3, 3), start=1):
        for i in range(1, convs + 1):
            name = f"block{block}_conv{i}"
            x = layers.Conv2D(4 * min(2 ** (block - 1), 8), 3, activation="relu", padding="same", name=name)(x)
        if pool or block < 5:
            x = layers.MaxPooling2D((2, 2), strides=(2, 2), name=f"block{block}_pool")(x)
    for layer in extra:
        x = layer(x)
    return keras.Model(images, x, name="vgg16")


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("pooling", "how"), [(layers.Flatten, "flatten"), (layers.GlobalAveragePooling2D, "avg")], ids=["flatten", "avg"]
)
def test_a_vgg_with_the_head_of_tutorials(tmp_path, ending, pooling, how):
    base = _small_vgg()
    top = [layers.Dense(8, activation="relu"), layers.Dropout(0.5), layers.Dense(1, activation="sigmoid")]
    module = randomise(keras.Sequential([keras.Input((32, 32, 3)), base, pooling(), *top]))
    place = save(module, tmp_path, ending)
    opened = pretrained.open_weights(str(place))
    assert opened.plan.unknown == ()
    assert "the head is dense, dense_1" in re.sub(r"dense(_\d+)?, dense_\d+", "dense, dense_1", opened.notes[0])
    assert f"head_pool={how}" in opened.model
    model, variables = load(place, num_classes=2, image_size=32)
    batch = photographs(32)
    (expected,), _ = run(module, keras.applications.vgg16.preprocess_input(batch.copy()))
    logits = jax.jit(model.apply)(variables, normalised(batch, place))
    np.testing.assert_allclose(jax.nn.softmax(logits)[:, 1:], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"pool": False}, "the network was cut before its last max_pooling2d"),
        ({"extra": [layers.MaxPooling2D(1)]}, "it has a layer of the class max_pooling2d"),
        ({"pool": False, "extra": [layers.MaxPooling2D(2, strides=1)]}, "it has a layer of the class max_pooling2d"),
    ],
)
def test_a_vgg_that_ends_otherwise_keeps_no_head(tmp_path, arguments, why):
    module = keras.Sequential([_small_vgg(**arguments), layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)])
    opened = pretrained.open_weights(str(save(module, tmp_path, ".keras")))
    assert any(why in note for note in opened.notes)
    assert opened.num_classes == 0


@pytest.mark.slow
def test_the_pixels_of_an_efficientnet_with_the_published_weights(tmp_path):
    module = make("EfficientNetB0", 32)
    # As in the file that Keras downloads: what it calls the variance is the standard deviation.
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    module.get_layer(index=2).set_weights([mean, deviation, np.int32(0)])
    pixels = pretrained.open_weights(str(save(module, tmp_path, ".weights.h5"))).pixels
    np.testing.assert_allclose([pixels.mean, pixels.std], [mean, deviation], rtol=1e-5)


def test_other_networks_of_keras_are_named_in_a_line(tmp_path):
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3, name="block1_conv1")(images)
    x = layers.SeparableConv2D(4, 3, name="block2_sepconv1")(x)
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))
    module = keras.Model(images, layers.Dense(3, name="predictions")(x), name="xception")
    for ending in (".keras", ".weights.h5", ".h5"):
        place = save(module, tmp_path, ending)
        name = "" if "weights" in ending else "xception: "
        with pytest.raises(UserError) as caught:
            pretrained.open_weights(str(place))
        assert "\n" not in str(caught.value)
        assert f"no network that is known here: {name}" in str(caught.value)
        assert re.search(r"separable_conv2d.*known are those of convnext, densenet, .*vgg\.$", str(caught.value))


def test_a_net_of_ones_own_is_no_inception(tmp_path):
    module = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
    with pytest.raises(UserError, match="no network that is known here"):
        pretrained.open_weights(str(save(module, tmp_path, ".weights.h5")))


@pytest.mark.slow
def test_the_first_names_of_mobilenet_v3(tmp_path):
    module = make("MobileNetV3Small", None)
    arrays = pretrained.open_weights(str(save(module, tmp_path, ".weights.h5"))).arrays
    place = tmp_path / "weights_mobilenet_v3_small_224_1.0_float.h5"
    with h5py.File(place, "w") as file:
        named = [(_first_name(*name.split("/")), array) for name, array in arrays.items()]
        file.attrs["layer_names"] = sorted({layer for (layer, _), _ in named})
        for (layer, variable), array in named:
            group = file.require_group(layer)
            group.attrs["weight_names"] = [*group.attrs.get("weight_names", ()), f"{layer}/{variable}:0"]
            group[f"{layer}/{variable}:0"] = array
    old, new = pretrained.open_weights(str(place)), pretrained.open_weights(str(tmp_path / "network.weights.h5"))
    assert (old.model, old.shapes) == (new.model, new.shapes)
    assert "Conv/BatchNorm/gamma" in old.arrays
    assert "expanded_conv_3/squeeze_excite/Conv_1/kernel" in old.arrays


def _first_name(layer, variable):
    layer = re.sub("^conv", "Conv", layer).replace("logits", "Logits")
    layer = re.sub(r"_bn$", "/BatchNorm", layer)
    layer = re.sub(r"^(expanded_conv(?:_\d+)?)_(?=[a-z])", r"\1/", layer)
    return layer.replace("squeeze_excite_conv", "squeeze_excite/Conv"), variable


@pytest.mark.slow
def test_scales_that_keras_leaves_out_are_ones_and_reported_as_such(tmp_path):
    opened = pretrained.open_weights(str(save(make("InceptionV3", 75), tmp_path, ".weights.h5")))
    model = models.build(opened.model, num_classes=CLASSES, image_size=75)
    report = pretrained.examine(opened, model, image_size=75)
    assert len(report.ones) == 94
    assert report.initialised == report.dropped == {}
    assert report.ones["params/conv_1a_3x3/bn/scale"] == [32]
    assert "params/conv_1a_3x3/bn/scale" not in report.loaded
    assert any(line.startswith("ones ") for line in report.summary())
    variables, _ = pretrained.load_pretrained(opened, model, image_size=75, rng=jax.random.key(0))
    np.testing.assert_array_equal(variables["params"]["conv_1a_3x3"]["bn"]["scale"], np.ones(32))
