"""Keras' ResNets, saved by Keras 3 in both of its HDF5 formats, compute the same here."""

import jax
import keras
import numpy as np
import pytest
from keras.src.applications import resnet
from parity import images, load, outputs, same, train_once

from jaxtl import pretrained

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def keras_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def _model(version: int):
    """Builds a small ResNet from Keras' own parts; its `ResNet50` differs only in the counts."""
    stack = resnet.stack_residual_blocks_v1 if version == 1 else resnet.stack_residual_blocks_v2
    strides = (1, 2) if version == 1 else (2, 1)

    def body(x):
        x = stack(x, 64, 2, stride1=strides[0], name="conv2")
        return stack(x, 128, 2, stride1=strides[1], name="conv3")

    model = resnet.ResNet(
        body, version == 2, use_bias=True, weights=None, input_shape=(None, None, 3), include_top=False, pooling="avg"
    )
    logits = keras.layers.Dense(5, name="predictions")(model.output)
    model = keras.Model(model.input, [model.get_layer("conv2_block2_out").output, logits])
    generator = np.random.default_rng(version)
    for variable in (variable for layer in model.layers for variable in layer.weights):
        noise = generator.normal(size=variable.shape)
        if variable.name == "moving_variance":
            variable.assign(0.5 + np.abs(noise))
        elif variable.name == "gamma":
            variable.assign(1 + 0.3 * noise)
        else:
            variable.assign(noise * (0.3 if noise.ndim == 1 else 0.8 / np.sqrt(np.prod(noise.shape[:-1]))))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
def test_keras_resnet(version, tmp_path):
    module = _model(version)
    path, classic = tmp_path / "resnet.weights.h5", tmp_path / "resnet.h5"
    module.save_weights(path)
    module.save(classic)
    module.save(tmp_path / "resnet.keras")
    # Keras gives the first version BGR; the rule for its first layer turns the channels instead.
    turn = slice(None, None, -1 if version == 1 else 1)
    for size in (64, 50):
        model, variables = load(path, num_classes=5, image_size=size)
        batch = images(size)
        middle, logits = outputs(model, variables, batch, after="layer1.1")
        expected_middle, expected = module(batch[..., turn], training=False)
        same(logits, expected)
        same(middle, expected_middle)

    other = pretrained.open_weights(str(classic)).arrays
    numbered = pretrained.open_weights(str(path)).arrays
    packed = pretrained.open_weights(str(tmp_path / "resnet.keras")).arrays
    assert {name: array.tolist() for name, array in packed.items()} == {
        name: array.tolist() for name, array in numbered.items()
    }
    assert set(other) == set(numbered)
    assert all(np.array_equal(other[name], numbered[name]) for name in other)

    batch = images(48, count=4)
    logits, statistics = train_once(model, variables, batch)
    same(logits, module(batch[..., turn], training=True)[1])
    first = ("bn1", "conv1_bn") if version == 1 else ("layer1.0/norm1", "conv2_block1_preact_bn")
    later = ("layer2.1/bn2" if version == 1 else "layer2.1/norm3", "conv3_block2_2_bn")
    for ours, theirs in (first, later):
        same(statistics[f"{ours}/mean"], module.get_layer(theirs).moving_mean)
        same(statistics[f"{ours}/var"], module.get_layer(theirs).moving_variance)
