"""config.json and preprocessor_config.json are read as transformers and timm mean them."""

import pytest

from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels
from jaxtl.pretrained.hub_config import facts_from_config

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# As they stand on the hub, shortened.
VIT = {"model_type": "vit", "hidden_size": 768, "num_labels": 2, "id2label": {"1": "dog", "0": "cat"}}
PREPROCESSORS = {
    "ViT, old": (
        {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224},
        Pixels(224, 224, (0.5,) * 3, (0.5,) * 3, "bilinear"),
    ),
    "DeiT": (
        {
            "feature_extractor_type": "DeiTFeatureExtractor",
            "size": 256,
            "crop_size": 224,
            "do_center_crop": True,
            "image_mean": MEAN,
            "image_std": STD,
        },
        Pixels(224, 256, tuple(MEAN), tuple(STD), "bicubic"),
    ),
    "ConvNext": (
        {
            "feature_extractor_type": "ConvNextFeatureExtractor",
            "crop_pct": 0.875,
            "size": 224,
            "resample": 3,
            "image_mean": MEAN,
            "image_std": STD,
        },
        Pixels(224, 256, tuple(MEAN), tuple(STD), "bicubic"),
    ),
    "Bit": (
        {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": 256},
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "image_mean": MEAN,
            "image_std": STD,
        },
        Pixels(224, 256, tuple(MEAN), tuple(STD), "bicubic"),
    ),
    "not normalised": (
        {
            "do_normalize": False,
            "image_mean": MEAN,
            "image_std": STD,
            "size": {"height": 96, "width": 96},
            "resample": 0,
        },
        Pixels(96, 96, (0.0,) * 3, (1.0,) * 3, "nearest"),
    ),
}


@pytest.mark.parametrize("kind", PREPROCESSORS)
def test_preprocessors_of_transformers(kind):
    preprocessor, pixels = PREPROCESSORS[kind]
    facts = facts_from_config({}, preprocessor)
    assert (facts.pixels, facts.pixels_from) == (pixels, "preprocessor_config.json")


def test_a_preprocessor_that_says_too_little_or_something_strange():
    assert facts_from_config({}, {"size": 224}).pixels is None
    with pytest.raises(UserError, match="rescale_factor"):
        facts_from_config({}, {"image_mean": MEAN, "image_std": STD, "size": 224, "rescale_factor": 1 / 127.5})
    with pytest.raises(UserError, match="interpolation '5'"):
        facts_from_config({}, {"image_mean": MEAN, "image_std": STD, "size": 224, "resample": 5})


def test_the_processor_of_efficientnet_divides_twice():
    roots = [0.47853944, 0.4732864, 0.47434163]
    kind = {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 224, "width": 224}, "resample": 3}
    for top, std in ((True, (0.229, 0.224, 0.225)), (False, roots)):
        facts = {**kind, "image_mean": MEAN, "image_std": roots, "include_top": top}
        assert facts_from_config({}, facts).pixels.std == pytest.approx(std, abs=1e-6)
    with pytest.raises(UserError, match="rescale_offset"):
        facts_from_config({}, {**kind, "image_mean": MEAN, "image_std": STD, "rescale_offset": True})


def test_the_architecture_of_timm_tells_what_no_array_shows():
    assert facts_from_config({"architecture": "tf_efficientnet_b0.ns_jft_in1k"}, {}).fields == {
        "tf_padding": True,
        "epsilon": 1e-3,
    }
    changed = {"architecture": "efficientnet_b0", "model_args": {"bn_eps": 1e-4, "pad_type": "same"}}
    assert facts_from_config(changed, {}).fields == {"epsilon": 1e-4, "tf_padding": True}
    assert facts_from_config({"architecture": "convnext_nano", "model_args": {"conv_mlp": False}}, {}).unknown == ""
    se = {"architecture": "efficientnet_b0", "model_args": {"se_layer": "eca"}}
    assert facts_from_config(se, {}).unknown == "efficientnet_b0 with se_layer='eca'"


def test_timm_configs():
    cfg = {
        "input_size": [3, 384, 384],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    facts = facts_from_config({"architecture": "vit_base_patch16_384", "pretrained_cfg": cfg}, {})
    assert facts.pixels == Pixels(384, 426, (0.5,) * 3, (0.5,) * 3, "bicubic")
    assert facts.model == ""


def test_architecture_and_classes_come_from_the_config():
    facts = facts_from_config(VIT, {})
    # What the file leaves out is transformers' default.
    assert facts.model == "vit_b16:epsilon=1e-12"
    assert facts.classes == ("cat", "dog")


def test_an_architecture_that_is_not_known_is_named():
    focal = {"model_type": "focalnet", "architectures": ["FocalNetForImageClassification"]}
    unknown = "the model type 'focalnet' of transformers (FocalNetForImageClassification)"
    assert facts_from_config(focal, {}).unknown == unknown
    assert facts_from_config({"architecture": "resnetblur50.bt_in1k"}, {}).unknown == "resnetblur50"
    assert facts_from_config({"architecture": "resnet50.a1_in1k"}, {}).unknown == ""


def test_placeholder_labels_are_no_class_names():
    assert facts_from_config({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, {}).classes is None


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (
            {"model_type": "deit", "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
            "deit_ti16_distilled:teacher_head=false,epsilon=1e-12",
        ),
        (
            {
                "model_type": "resnet",
                "depths": [2, 2, 2, 2],
                "hidden_sizes": [64, 128, 256, 512],
                "layer_type": "basic",
            },
            "resnet18",
        ),
        ({"model_type": "resnet"}, "resnet50"),
        ({"model_type": "bit"}, "bit_r50x1:kernel_epsilon=1e-08"),
        ({"model_type": "swin"}, "swin_t"),
        ({"model_type": "clip_vision_model"}, "clip_b32:gelu=quick"),
        (
            {
                "model_type": "dinov2",
                "hidden_size": 384,
                "num_attention_heads": 6,
                "image_size": 518,
                "patch_size": 14,
            },
            "dinov2_s14",
        ),
        ({"model_type": "mobilenet_v2"}, "mobilenet_v2:tf_padding=true,epsilon=0.001,momentum=0.997"),
        (
            {"model_type": "efficientnet", "depthwise_padding": [31, 51]},
            "efficientnet_b7:hf_padding=true,centred=31-51,epsilon=0.001,momentum=0.99",
        ),
        ({"model_type": "convnext", "depths": [3, 3, 27, 3]}, "convnext_s:head_epsilon=1e-12"),
    ],
)
def test_every_model_type_is_known_by_its_name(config, model):
    assert facts_from_config(config, {}).model == model


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "no such thing"}, "transformers does not take it"),
        ({"model_type": "vit", "hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"model_type": "dinov2", "use_swiglu_ffn": True}, "use_swiglu_ffn"),
        ({"model_type": "resnet", "downsample_in_first_stage": True}, "stages double"),
        ({"model_type": "bit", "global_padding": "same"}, "global_padding 'SAME'"),
        ({"model_type": "mobilenet_v2", "output_stride": 8}, "a MobileNet V2 with output_stride 8"),
        ({"model_type": "efficientnet", "pooling_type": "max"}, "an EfficientNet with pooling_type max"),
        ({"model_type": "convnext", "hidden_sizes": [96, 192, 384, 700]}, "stages double in width"),
    ],
)
def test_what_is_not_supported_is_said(config, message):
    with pytest.raises(UserError, match=message):
        facts_from_config(config, {})
