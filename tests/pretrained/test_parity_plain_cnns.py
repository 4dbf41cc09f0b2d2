"""AlexNet, VGG, DenseNet, GoogLeNet and Inception v3 compute what torchvision's and timm's own compute."""

import jax
import pytest
from parity import images, load
from real_networks import CLASSES, check, save, tm, tv
from real_packages import torchvision
from torch import nn

from jaxtl.trees import flatten

pytestmark = pytest.mark.slow


def narrow_head(width):
    hidden = (nn.Linear(width, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 32), nn.ReLU(), nn.Dropout())
    return (*hidden, nn.Linear(32, CLASSES))


def test_alexnet(tmp_path):
    module = tv("alexnet")
    first, *others = narrow_head(256 * 36)
    module.classifier = nn.Sequential(nn.Dropout(), first, *others)
    del module.classifier[6]  # torchvision drops before its dense layers, not after the last.
    check(module, tmp_path, sizes=(96, 129), after="conv5", part="features.12")


@pytest.mark.parametrize("batch_norm", [False, True])
def test_vgg_of_torchvision(batch_norm, tmp_path):
    torchvision()
    from torchvision.models import vgg

    layers = [8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"]
    module = vgg.VGG(vgg.make_layers(layers, batch_norm=batch_norm), num_classes=CLASSES, init_weights=False)
    module.classifier = nn.Sequential(*narrow_head(64 * 49))
    check(module, tmp_path, sizes=(64, 70), after="block3", part="features.14" if batch_norm else "features.10")


@pytest.mark.parametrize("name", ["vgg11", "vgg13_bn"])
def test_vgg_of_timm(name, tmp_path):
    # Its first dense layer is a window that moves over larger maps: at 256 pixels there are 8 x 8 of them.
    part = {"vgg11": "features.5", "vgg13_bn": "features.13"}[name]
    check(tm(name), tmp_path, sizes=(224, 256), after="block2", part=part, batch=2)


def test_densenet_of_torchvision(tmp_path):
    torchvision()
    from torchvision.models import densenet

    module = densenet.DenseNet(8, (2, 3, 2, 2), 16, num_classes=CLASSES)
    check(module, tmp_path, sizes=(64, 97), after="transition1", part="features.transition1")


def test_densenet_of_timm(tmp_path):
    check(tm("densenet121"), tmp_path, sizes=(64, 97), after="transition2", part="features.transition2")


def test_googlenet(tmp_path):
    module = tv("googlenet", init_weights=False)
    check(module, tmp_path, sizes=(64, 97), after="inception4b", part="inception4b")


def test_inception_v3_of_torchvision(tmp_path):
    module = tv("inception_v3", init_weights=False)
    # Its auxiliary head takes no smaller images in training, and normalises maps of one pixel: over few images rounding
    # grows past the tolerance.
    check(module, tmp_path, sizes=(299, 107), after="mixed6b", part="Mixed_6b", batch=6)


def test_inception_v3_of_timm(tmp_path):
    check(tm("inception_v3"), tmp_path, sizes=(107, 128), after="mixed6b", part="Mixed_6b")


def test_auxiliary_heads_count_in_training_alone(tmp_path):
    model, variables = load(save(tv("googlenet", init_weights=False), tmp_path), num_classes=CLASSES, image_size=64)
    batch = images(64)
    assert isinstance(jax.eval_shape(lambda v: model.apply(v, batch), variables), jax.ShapeDtypeStruct)
    (logits, auxiliary), _ = jax.eval_shape(
        lambda v: model.apply(v, batch, train=True, mutable=["batch_stats"]), variables
    )
    assert logits.shape == (2, CLASSES)
    assert {name: part.shape for name, part in auxiliary.items()} == {"aux1": (2, CLASSES), "aux2": (2, CLASSES)}
    assert {path.split("/")[1] for path in flatten(variables) if path.startswith("params/aux")} == {"aux1", "aux2"}
