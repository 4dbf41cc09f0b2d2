"""Keras' VGG, DenseNet, Inception v3 and ConvNeXt, saved by Keras, compute the same here from the same pixels."""

from functools import partial
from types import SimpleNamespace

import jax
import keras
import pytest
from keras.src.applications import convnext, densenet, vgg16, vgg19
from keras_networks import CLASSES, check, make

from jaxtl import pretrained

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TOP = {"weights": None, "classes": CLASSES, "classifier_activation": None}


@pytest.fixture(autouse=True)
def keras_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def thin(layers, share=16):
    """Gives Keras' layers with fewer channels, for the functions that build its networks."""

    def conv(filters, *arguments, **others):
        return layers.Conv2D(filters // share, *arguments, **others)

    def dense(units, *arguments, **others):
        return layers.Dense(max(units // share, CLASSES), *arguments, **others)

    return SimpleNamespace(**{**vars(layers), "Conv2D": conv, "Dense": dense})


@pytest.mark.parametrize(("name", "module", "layers"), [("VGG16", vgg16, 23), ("VGG19", vgg19, 26)])
def test_vgg(name, module, layers, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "layers", thin(module.layers))
    network = getattr(module, name)(**TOP)
    assert len(network.layers) == layers
    caffe = keras.applications.vgg16.preprocess_input
    endings = (".weights.h5", ".h5")
    check(network, tmp_path, endings=endings, sizes=(224,), after="block3", part="block3_pool", preprocess=caffe)


def test_densenet(tmp_path):
    build = partial(densenet.DenseNet, (2, 3, 2, 2), **TOP)
    check(
        build(input_shape=(64, 64, 3)),
        tmp_path,
        endings=(".keras", ".h5"),
        sizes=(64, 97),
        after="transition1",
        part="pool2_pool",
        preprocess=keras.applications.densenet.preprocess_input,
        make_again=lambda size: build(input_shape=(size, size, 3)),
    )


def test_inception_v3_whatever_was_made_before_it(tmp_path):
    keras.layers.Conv2D(3, 3)
    keras.layers.BatchNormalization()
    network = make("InceptionV3", 107)
    assert network.layers[1].name != "conv2d"
    check(
        network,
        tmp_path,
        endings=(".weights.h5", ".h5"),
        sizes=(107, 128),
        after="mixed6b",
        part="mixed4",
        preprocess=keras.applications.inception_v3.preprocess_input,
        make_again=lambda size: make("InceptionV3", size),
    )
    opened = pretrained.open_weights(str(tmp_path / "network.h5"))
    assert opened.model == "inception_v3:image_size=107,aux=false,counts_padding=false,momentum=0.99,unbiased=false"


def test_convnext(tmp_path):
    build = partial(convnext.ConvNeXt, (1, 1, 2, 1), (16, 32, 64, 128), name="convnext_tiny", **TOP)
    check(
        build(input_shape=(64, 64, 3)),
        tmp_path,
        endings=(".keras", ".weights.h5", ".h5"),
        sizes=(64, 97),
        after="stage2.0",
        # The sum that ends a block has no name of its own.
        part=lambda network: [each for each in network.operations if each.name.startswith("add")][1].output,
        make_again=lambda size: build(input_shape=(size, size, 3)),
    )
