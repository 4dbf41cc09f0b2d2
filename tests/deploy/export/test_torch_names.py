"""What is written for PyTorch users opens there to the same logits, and here to the same bits."""

import dataclasses
import json
import math
import re

import jax
import numpy as np
import pytest
import torch
import transformers
from parity import images, nchw, same
from PIL import Image
from real_packages import timm

from jaxtl import models, pretrained
from jaxtl.data.decode import eval_view, size_with_shorter
from jaxtl.deploy.export import formats
from jaxtl.deploy.export.hf import save_huggingface
from jaxtl.deploy.export.timm import crop_share, save_timm
from jaxtl.errors import UserError
from jaxtl.preprocessing import IMAGENET, Pixels
from jaxtl.pretrained.load import abstract_variables
from jaxtl.report.facts import Facts
from jaxtl.report.model_card import Exported, model_card
from jaxtl.trees import flatten, nest

pytestmark = pytest.mark.filterwarnings("ignore")
slow = pytest.mark.slow

PIXELS = Pixels(32, 40, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "bicubic")
CLASSES = ("daisy", "rose", "tulip", "aster", "lily")
SMALL = "image_size=32,patch=8,width=32,depth=2,heads=4"


def _random_model(name: str):
    model = models.build(name, num_classes=5, image_size=32)
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        noise = generator.normal(size=leaf.shape).astype(np.float32)
        if path.endswith("/var"):
            return 0.5 + np.abs(noise)
        if path.endswith("/scale"):
            return 1 + 0.3 * noise
        return noise * (0.3 if leaf.ndim < 2 else np.float32(0.8 / np.sqrt(np.prod(leaf.shape[:-1]))))

    leaves = abstract_variables(model, 32)
    return model, nest({path: draw(path, leaf) for path, leaf in leaves.items()})


@pytest.mark.parametrize(
    "name",
    [
        f"vit_s16:{SMALL},mlp=48,epsilon=1e-12",
        pytest.param(f"vit_s16:{SMALL},gelu=tanh", marks=slow),
        pytest.param(f"deit_s16_distilled:{SMALL}", marks=slow),
        pytest.param(f"deit_s16_distilled:{SMALL},teacher_head=false", marks=slow),
        pytest.param(f"dinov2_s14:{SMALL}", marks=slow),
        pytest.param(f"dinov2_s14_registers:{SMALL}", marks=slow),
        pytest.param("resnet50:stages=1-1,width=8", marks=slow),
        "resnet18:stages=1-2,width=8",
        pytest.param("bit_r50x1:stages=1-1,width=32,kernel_epsilon=1e-8", marks=slow),
        pytest.param("swin_t:image_size=32,blocks=2-1,heads=1-2,width=8,window=4", marks=slow),
    ],
)
def test_transformers_opens_the_export_to_the_same_logits(name, tmp_path):
    model, variables = _random_model(name)
    save_huggingface(tmp_path, variables, model=name, pixels=PIXELS, classes=CLASSES)
    theirs, loading = transformers.AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.id2label[2] == "tulip"
    batch = images(32)
    with torch.no_grad():
        same(jax.jit(model.apply)(variables, batch), theirs.eval()(nchw(batch)).logits)

    opened = pretrained.open_weights(str(tmp_path))
    assert (opened.pixels, opened.classes, opened.num_classes) == (PIXELS, CLASSES, 5)
    again = models.build(pretrained.resolve_model(opened, "auto"), num_classes=5, image_size=32)
    assert again == model
    back, _ = pretrained.load_pretrained(opened, again, image_size=32, head="keep", rng=jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, variables, back)


def test_transformers_prepares_images_as_the_pixel_facts_say(tmp_path):
    name = f"vit_s16:{SMALL}"
    _, variables = _random_model(name)
    save_huggingface(tmp_path, variables, model=name, pixels=PIXELS)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 93, 3), dtype=np.uint8))
    theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    ours = np.asarray(image.resize((62, 40), Image.Resampling.BICUBIC).crop((15, 4, 47, 36)))
    same((ours / 255 - np.array(PIXELS.mean)) / np.array(PIXELS.std), theirs)


@pytest.mark.parametrize(("size", "resize"), [(32, 40), (224, 256), (48, 55), (33, 64)])
def test_transformers_crops_as_the_note_says_and_the_card_as_here(size, resize, tmp_path):
    pixels = Pixels(size, resize, IMAGENET[0], IMAGENET[1], "bicubic")
    name = f"vit_s16:{SMALL}"
    _, variables = _random_model(name)
    note = save_huggingface(tmp_path, variables, model=name, pixels=dataclasses.replace(PIXELS, size=32, resize=40))
    assert "3, 7, 11, ... pixels over 32, as one in four is" in note
    facts = json.loads((tmp_path / "preprocessor_config.json").read_text())
    facts |= {"size": {"shortest_edge": resize}, "crop_size": {"height": size, "width": size}}
    facts |= {"image_mean": IMAGENET[0], "image_std": IMAGENET[1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    code = _blocks(
        model_card(Facts("a", "a", "stopped", model={"pixels": pixels.to_json()}), Exported("transformers", "a"))
    )[1]
    generator = np.random.default_rng(size)
    found = set()
    for width, height in generator.integers(20, 400, (24, 2)):
        image = Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8))
        ours = (eval_view(image, pixels) / 255 - pixels.mean) / pixels.std
        theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        margins = [side - size for side in size_with_shorter(image.size, resize)]
        moved = any(margin % 4 == 3 for margin in margins)
        assert np.allclose(theirs, ours, atol=1e-5) != moved
        found.add(moved)
        names = {"image": image, "Image": Image, "torch": torch}
        exec(code, names)
        np.testing.assert_allclose(names["pixel_values"][0].permute(1, 2, 0), ours, atol=1e-5)
    # With a margin of 7 on the shorter side none is the same; with 31 neither.
    assert found == ({True} if (resize - size) % 4 == 3 else {True, False})


def test_a_margin_that_moves_every_crop_is_told(tmp_path):
    name = f"vit_s16:{SMALL}"
    note = save_huggingface(tmp_path, _random_model(name)[1], model=name, pixels=dataclasses.replace(PIXELS, resize=35))
    assert "than jaxtl of any photograph, since its shorter side is 3 pixels over 32; all others" in note


def _blocks(card):
    """Gives the code of a card for Python."""
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


@pytest.mark.parametrize("size", [8, 224, 384])
def test_timm_resizes_to_the_shorter_side_of_the_pixel_facts(size):
    for resize in range(size, 2 * size):
        pixels = dataclasses.replace(PIXELS, size=size, resize=resize)
        share = crop_share(pixels)
        assert math.floor(size / share) == resize
        assert share == pytest.approx(size / resize, rel=1e-12)


@slow
@pytest.mark.parametrize("resize", [40, 43, 50])
def test_timm_prepares_images_of_any_size_as_evaluation_does(resize, tmp_path):
    pixels = dataclasses.replace(PIXELS, resize=resize)
    name = f"vit_s16:{TIMM_SIZES}"
    save_timm(tmp_path, _random_model(name)[1], model=name, pixels=pixels, classes=CLASSES)
    model = timm().create_model(f"local-dir:{tmp_path}", pretrained=True)
    prepare = timm().data.create_transform(**timm().data.resolve_model_data_config(model), is_training=False)
    generator = np.random.default_rng(resize)
    for width, height in generator.integers(20, 400, (24, 2)):
        image = Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8))
        ours = (eval_view(image, pixels) / 255 - pixels.mean) / pixels.std
        np.testing.assert_allclose(prepare(image).permute(1, 2, 0), ours, atol=1e-5)


@pytest.mark.parametrize("odd", ["a/b", 'the "best"', "雏菊", "\udcff", "yes: no"])
def test_odd_class_names_come_back(odd, tmp_path):
    name, classes = f"vit_s16:{TIMM_SIZES}", (*CLASSES[:4], odd)
    for save in (save_huggingface, save_timm):
        save(tmp_path / save.__name__, _random_model(name)[1], model=name, pixels=PIXELS, classes=classes)
        assert pretrained.open_weights(str(tmp_path / save.__name__)).classes == classes


TIMM_SIZES = "image_size=32,width=192,heads=3,depth=2,patch=8"
TIMM = [
    f"vit_s16:{TIMM_SIZES}",
    f"vit_s16:{TIMM_SIZES},registers=2,embed_prefix=false,gelu=tanh",
    f"vit_s16:{TIMM_SIZES},pool=mean,class_token=false,norm_after_pool=true",
    f"deit_s16_distilled:{TIMM_SIZES}",
    f"deit3_s16:{TIMM_SIZES}",
    f"clip_b16:{TIMM_SIZES}",
    f"clip_b16:{TIMM_SIZES},gelu=quick",
    "vit_r26_s32:image_size=32,width=192,heads=3,depth=2,timm=true",
    "swin_t:image_size=32,blocks=2-1,heads=1-2,width=8,window=3,shift_first=true",
    # Where nothing is padded, the order of shift and padding is nothing to see.
    "swin_t:image_size=32,blocks=2-1,heads=1-2,width=8,window=4",
    "maxvit_t:image_size=32",
    "bit_r50x1:kernel_epsilon=1e-8",
    "resnet18",
    "resnet50d",
]


@slow
@pytest.mark.parametrize("name", TIMM)
def test_timm_opens_the_export_to_the_same_logits(name, tmp_path):
    model, variables = _random_model(name)
    save_timm(tmp_path, variables, model=name, pixels=PIXELS, classes=CLASSES)
    theirs = timm().create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert theirs.pretrained_cfg["label_names"][2] == "tulip"
    batch = images(32)
    with torch.no_grad():
        same(jax.jit(model.apply)(variables, batch), theirs(nchw(batch)))

    opened = pretrained.open_weights(str(tmp_path))
    assert (opened.pixels, opened.classes) == (PIXELS, CLASSES)
    again = models.build(pretrained.resolve_model(opened, "auto"), num_classes=5, image_size=32)
    back, _ = pretrained.load_pretrained(opened, again, image_size=32, head="keep", rng=jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, variables, back)


def test_timm_config_names_an_architecture_with_its_arguments(tmp_path):
    name = f"vit_s16:{SMALL},registers=2"
    _, variables = _random_model(name)
    save_timm(tmp_path, variables, model=name, pixels=PIXELS)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "vit_base_patch16_224"
    assert config["model_args"]["reg_tokens"] == 2
    assert config["pretrained_cfg"]["crop_pct"] == 0.8


@pytest.mark.parametrize(
    ("save", "name", "message"),
    [
        (save_huggingface, "resnet20_cifar:blocks=1", "transformers has no model"),
        (save_huggingface, f"vit_s16:{SMALL},registers=2", "transformers has no model"),
        (save_huggingface, "resnet50d:stages=1-1,width=8", "transformers has no model"),
        (save_timm, "resnet20_cifar:blocks=1", "timm has no model"),
        (save_timm, "resnet50:stages=1-1,width=8", "timm has no such ResNet"),
        (save_timm, f"vit_s16:{SMALL},epsilon=1e-12", "epsilon of 1e-6"),
        (save_timm, f"dinov2_s14:{SMALL}", "no head on the class token and the mean"),
        (save_timm, f"clip_b16:{SMALL},epsilon=1e-6", "timm's CLIP has an epsilon of 1e-5"),
        pytest.param(
            save_timm,
            "vit_r26_s32:image_size=32,width=32,heads=4,depth=2",
            "other epsilons in their ResNets",
            marks=slow,
        ),
        (save_timm, "bit_r50x1:stages=1-1,width=32", "timm has no such BiT"),
        (save_timm, "swin_t:blocks=1-1,heads=1-2,width=8,window=3", "timm shifts maps before it pads them"),
        pytest.param(
            save_timm, "maxvit_t:blocks=1-1,width=32", "timm's MaxViTs have the sizes of maxvit_t, maxvit_s", marks=slow
        ),
        (
            save_huggingface,
            "swin_t:blocks=1-1,heads=1-2,width=8,window=3,shift_first=true",
            "transformers has no model",
        ),
        (save_huggingface, "swin_t:blocks=1-1,heads=1-2,width=8,window=7", "transformers has no model"),
        (save_huggingface, f"clip_b16:{SMALL}", "transformers has no model"),
    ],
)
def test_what_others_cannot_express_is_refused(save, name, message, tmp_path):
    _, variables = _random_model(name)
    with pytest.raises(UserError, match=message):
        save(tmp_path / "export", variables, model=name, pixels=PIXELS)
    assert not (tmp_path / "export").exists()


def test_native_files_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "native.safetensors"
    model, variables = _random_model("resnet18:stages=1-2,width=8")
    name = "resnet18:stages=1-2,width=8"
    pretrained.save_native(path, variables, model=name, pixels=PIXELS, classes=CLASSES)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    opened = pretrained.open_weights(str(path))
    assert (opened.model, opened.key_mapping.name, opened.pixels, opened.classes) == (name, "jaxtl", PIXELS, CLASSES)
    back, load_report = pretrained.load_pretrained(opened, model, image_size=32, rng=jax.random.key(1))
    assert set(load_report.loaded) == set(flatten(variables))
    jax.tree.map(np.testing.assert_array_equal, variables, back)


def test_each_file_of_the_folder_is_a_format():
    assert {
        "jaxtl": ".safetensors",
        "onnx": ".onnx",
        "tflite": ".tflite",
        "torchvision": ".pth",
        "bundle": "",
        "hf": "",
        "openvino": "",
        "timm": "",
    }.items() <= {name: each.suffix for name, each in formats().items()}.items()
