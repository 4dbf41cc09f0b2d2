"""Torchvision, timm and transformers open what is exported, and compute the same logits."""

import json
import math

import jax
import numpy as np
import pytest
import torch
import transformers
from parity import images, nchw, same
from real_packages import timm, torchvision

from jaxtl import models, pretrained
from jaxtl.deploy.export.hf import save_huggingface
from jaxtl.deploy.export.timm import save_timm
from jaxtl.deploy.export.torchvision import save_torchvision
from jaxtl.errors import UserError
from jaxtl.models import swin, vit
from jaxtl.preprocessing import Pixels
from jaxtl.pretrained.load import abstract_variables
from jaxtl.trees import flatten, nest

CLASSES = ("daisy", "rose", "tulip", "aster", "lily")
slow = pytest.mark.slow


def pixels(size):
    return Pixels(size, size + 8, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "bicubic")


def random_variables(name, size, channels=3):
    """Draws values for every leaf: kernels of the size at which activations neither grow nor vanish."""
    model = models.build(name, num_classes=len(CLASSES), image_size=size)
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        noise = generator.normal(size=leaf.shape).astype(np.float32)
        if path.endswith("/var"):
            return 0.5 + np.abs(noise)
        if path.endswith("/scale"):
            return 1 + 0.3 * noise
        return noise * np.float32(0.3 if leaf.ndim < 2 else 0.8 / math.sqrt(math.prod(leaf.shape[:-1])))

    leaves = abstract_variables(model, size, channels)
    return model, nest({path: draw(path, leaf) for path, leaf in leaves.items()})


def zeros(name, channels=3):
    """Gives variables that take no memory, where their values make no difference."""
    leaves = abstract_variables(models.build(name, num_classes=5, image_size=64), 64, channels)
    return nest({path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in leaves.items()})


def compare(model, variables, module, size, channels=3):
    batch = images(size, channels=channels)
    with torch.no_grad():
        found = module.eval()(nchw(batch))
    same(jax.jit(model.apply)(variables, batch), getattr(found, "logits", found))


def comes_back(path, model, variables, size):
    """Opens the export here: every leaf of the model is the same, but for auxiliary heads."""
    opened = pretrained.open_weights(str(path))
    name = pretrained.resolve_model(opened, "auto")
    again = models.build(name, num_classes=len(CLASSES), image_size=size)
    back, _ = pretrained.load_pretrained(opened, again, image_size=size, head="keep", rng=jax.random.key(0))
    before, after = flatten(variables), flatten(back)
    assert {path for path in before if not path.split("/")[1].startswith("aux")} == set(after)
    for leaf in after:
        np.testing.assert_array_equal(after[leaf], before[leaf])


TORCHVISION = {
    "resnet18": ("resnet18", 64),
    "resnext50_32x4d": ("resnext50_32x4d", 64),
    "vgg11_bn:average_first=false": ("vgg11_bn", 224),
    "alexnet": ("alexnet", 80),
    "densenet121": ("densenet121", 64),
    "googlenet": ("googlenet", 64),
    "inception_v3": ("inception_v3", 107),
    "mobilenet_v2": ("mobilenet_v2", 64),
    "mobilenet_v3_small": ("mobilenet_v3_small", 64),
    "efficientnet_b0": ("efficientnet_b0", 64),
    "efficientnet_v2_s": ("efficientnet_v2_s", 64),
    "convnext_t": ("convnext_tiny", 64),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=slow) for name in TORCHVISION])
def test_torchvision_opens_the_export_to_the_same_logits(name, tmp_path):
    builder, size = TORCHVISION[name]
    model, variables = random_variables(name, size)
    path = tmp_path / "weights.pth"
    made = save_torchvision(path, variables, model=name, pixels=pixels(size), classes=CLASSES)
    aux = ", aux_logits=False" if builder in ("googlenet", "inception_v3") else ""
    assert made.startswith(f"for torchvision.models.{builder}(num_classes=5{aux}); the file names no classes")
    assert f"size {size}, resize {size + 8}, mean [0.4, 0.5, 0.6]" in made
    plain = {"aux_logits": False, "init_weights": False} if builder in ("googlenet", "inception_v3") else {}
    module = getattr(torchvision().models, builder)(num_classes=len(CLASSES), **plain)
    module.load_state_dict(torch.load(path, weights_only=True), strict=True)
    compare(model, variables, module, size)
    comes_back(path, model, variables, size)


def test_torchvision_opens_a_vision_transformer(tmp_path, monkeypatch):
    monkeypatch.setitem(vit.VARIANTS, "vit_b16", vit.sizes(8, 32, 2, 2, image_size=32))
    model, variables = random_variables("vit_b16", 32)
    made = save_torchvision(tmp_path / "weights.pth", variables, model="vit_b16", pixels=pixels(32))
    assert made.startswith("for torchvision.models.vit_b_16(num_classes=5, image_size=32);")
    module = torchvision().models.VisionTransformer(32, 8, 2, 2, 32, 128, num_classes=len(CLASSES))
    module.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True), strict=True)
    compare(model, variables, module, 32)


@slow
def test_torchvision_opens_a_swin_transformer(tmp_path, monkeypatch):
    small = {"blocks": (1, 2), "heads": (2, 4), "width": 16, "window": 4, "image_size": 32}
    monkeypatch.setitem(swin.VARIANTS, "swin_t", small)
    model, variables = random_variables("swin_t:shift_first=true", 32)
    made = save_torchvision(tmp_path / "weights.pth", variables, model="swin_t:shift_first=true", pixels=pixels(32))
    assert made.startswith("for torchvision.models.swin_t(num_classes=5);")
    module = torchvision().models.SwinTransformer([4, 4], 16, [1, 2], [2, 4], [4, 4], num_classes=len(CLASSES))
    module.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True), strict=True)
    compare(model, variables, module, 32)


TIMM = {
    "resnet18": 64,
    "seresnet50": 64,
    "vgg11": 224,
    "densenet121": 64,
    "inception_v3": 107,
    "mobilenet_v2": 64,
    "mobilenet_v3_large:tf_padding=true": 65,
    "efficientnet_b0:epsilon=0.001,tf_padding=true": 65,
    "efficientnet_v2_s": 64,
    "convnext_atto": 64,
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=slow) for name in TIMM])
def test_timm_opens_the_export_to_the_same_logits(name, tmp_path):
    size = TIMM[name]
    model, variables = random_variables(name, size, channels=1)
    save_timm(tmp_path, variables, model=name, pixels=pixels(size), classes=CLASSES)
    config = json.loads((tmp_path / "config.json").read_text())
    module = timm().create_model(
        config["architecture"],
        checkpoint_path=str(tmp_path / "model.safetensors"),
        num_classes=config["num_classes"],
        in_chans=config["pretrained_cfg"]["input_size"][0],
        **config["model_args"],
    )
    compare(model, variables, module, size, channels=1)


HUGGINGFACE = {
    "mobilenet_v2:tf_padding=true,epsilon=0.001": 65,
    "mobilenet_v2": 64,
    # 80 pixels are 40, 20, 10 and 5 after the halvings: the last is centred.
    "efficientnet_b0:epsilon=0.001,tf_padding=true": 80,
    "convnext_atto": 64,
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=slow) for name in HUGGINGFACE])
def test_transformers_opens_the_export_to_the_same_logits(name, tmp_path):
    size = HUGGINGFACE[name]
    model, variables = random_variables(name, size)
    save_huggingface(tmp_path, variables, model=name, pixels=pixels(size), classes=CLASSES)
    module, loading = transformers.AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    compare(model, variables, module, size)
    comes_back(tmp_path, model, variables, size)


def test_torchvision_takes_images_of_three_channels(tmp_path):
    with pytest.raises(UserError, match="images of 3 channels, 'resnet18' was trained on 1"):
        save_torchvision(tmp_path / "weights.pth", zeros("resnet18", channels=1), model="resnet18", pixels=pixels(64))


@pytest.mark.parametrize(
    ("save", "name", "message"),
    [
        pytest.param(
            *(save_torchvision, "seresnet50", "its resnet50 computes with squeeze_excite=False for True"), marks=slow
        ),
        (save_torchvision, "resnet18:width=32", "its resnet18 computes with width=64 for 32"),
        pytest.param(
            save_torchvision,
            "efficientnet_b0:epsilon=0.001",
            "its efficientnet_b0 computes with epsilon=1e-05 for 0.001",
            marks=slow,
        ),
        pytest.param(
            save_torchvision,
            "efficientnet_b5",
            "its efficientnet_b5 computes with epsilon=0.001 for 1e-05",
            marks=slow,
        ),
        (save_torchvision, "lenet5", r"what 'lenet5' does\. It can be exported to jaxtl; "),
        pytest.param(
            *(save_timm, "googlenet", r"what 'googlenet' does\. It can be exported to jaxtl, torchvision; "),
            marks=slow,
        ),
        pytest.param(
            *(save_timm, "densenet121:growth=16", "its densenet121 computes with growth=32 for 16"), marks=slow
        ),
        # At 64 pixels timm's VGG computes otherwise, and no one else has Keras' ResNet v2.
        (save_huggingface, "vgg11", r"what 'vgg11' does\. It can be exported to jaxtl, torchvision; "),
        pytest.param(save_huggingface, "resnet50v2", r"It can be exported to jaxtl; ", marks=slow),
        pytest.param(
            save_huggingface, "efficientnet_b0", r"It can be exported to jaxtl, torchvision, timm; ", marks=slow
        ),
        pytest.param(
            *(save_timm, "resnet18:width=32", r"timm has no such ResNet; .*\. It can be exported to jaxtl, hf; "),
            marks=slow,
        ),
        pytest.param(
            *(save_timm, "seresnet50:width=32", r"timm has no such ResNet; .*\. It can be exported to jaxtl; "),
            marks=slow,
        ),
    ],
)
def test_what_a_package_lacks_is_refused(save, name, message, tmp_path):
    with pytest.raises(UserError, match=message):
        save(tmp_path / "export.pth", zeros(name), model=name, pixels=pixels(64))
    assert not (tmp_path / "export.pth").exists()
