"""What a source is called is believed before its shapes: the same arrays may be of another function."""

import json

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch_references import TimmViT, TorchResNet

from jaxtl import pretrained
from jaxtl.errors import UserError
from jaxtl.pretrained.architecture import UnknownArchitecture, is_known, telltale, unknown_name

# Written down from the lists of timm 1.0.31 and torchvision 0.28: the first compute what a model here computes.
KNOWN = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet26d", "resnet50d", "resnet101d"),
    *("tv_resnet50", "resnet50v2", "resnet20", "vit_tiny_patch16_224", "vit_base_patch16_384"),
    *("vit_huge_patch14_224", "vit_base_patch16_224_in21k", "vit_b_16", "vit_h_14", "deit_tiny_patch16_224"),
    *("deit_base_distilled_patch16_384", "deit3_large_patch16_224", "vit_small_patch14_dinov2"),
    *("vit_base_patch14_reg4_dinov2", "vit_base_patch16_clip_224", "vit_large_patch14_clip_quickgelu_336"),
    *("vit_small_r26_s32_224", "vit_base_r50_s16_384", "resnetv2_50x1_bit", "resnetv2_152x4_bit"),
    *("swin_t", "swin_base_patch4_window12_384"),
    *("vgg16", "vgg19_bn", "alexnet", "googlenet", "inception_v3", "densenet121", "densenet161", "mobilenet_v2"),
    *("mobilenetv2_050", "mobilenetv2_110d", "mobilenet_v3_large", "mobilenetv3_small_100", "tf_mobilenetv3_large_100"),
    *("efficientnet_b0", "efficientnet_b7", "tf_efficientnet_b5", "efficientnet_v2_s", "tf_efficientnetv2_l"),
    *("convnext_tiny", "convnext_atto", "convnext_xlarge"),
)
OTHERS = (
    *("resnetblur50", "resnetaa50", "ecaresnet50d", "legacy_seresnet50", "resnet50_gn", "resnet50_clip", "resnet50c"),
    *("resnet50t", "resnet50s", "resnet14t", "resnetv2_50", "resnext26ts", "skresnext50_32x4d"),
    *("vit_base_patch16_plus_clip_240", "vit_tiny_r_s16_p8_224", "vit_base_patch16_siglip_224", "swin_v2_t"),
    *("swin_s3_tiny_224", "swinv2_tiny_window8_256", "resnetv2_50d_gn"),
    *("vit_base_patch16_siglip_gap_224", "vit_relpos_base_patch16_224", "vit_giant_patch14_dinov2"),
    *("vit_base_patch16_gap_224", "vit_base_patch16_rpn_224", "vit_base_patch16_xp_224"),
    *("beit_base_patch16_224", "eva02_tiny_patch14_224"),
    *("repvgg_a0", "inception_v4", "inception_resnet_v2", "inception_next_tiny", "densenetblur121d", "densenet264d"),
    *("mobilenetv3_rw", "mobilenetv3_large_075", "tf_mobilenetv3_large_minimal_100", "mobilenetv4_conv_small"),
    *("mobilenet_edgetpu_v2_s", "ghostnet_100", "mnasnet_100", "efficientnet_b0_gn", "efficientnet_b1_pruned"),
    *("efficientnet_es", "efficientnet_lite0", "tf_efficientnet_lite0", "efficientnet_cc_b0_4e", "efficientnet_l2"),
    *("efficientnetv2_rw_s", "tf_efficientnetv2_b0", "convnextv2_tiny", "convnext_tiny_hnf", "convnext_atto_ols"),
    *("convnext_large_mlp", "convnext_xxlarge", "convnext_zepto_rms"),
)


@pytest.mark.parametrize("name", KNOWN)
def test_names_that_are_known(name):
    assert is_known(name)


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_other_functions(name):
    assert not is_known(name)


@pytest.mark.parametrize(
    "name",
    [
        "resnet50-0676ba61.pth",
        "wide_resnet50_2-95faca4d.pth",
        "resnext50_32x4d-7cdf4587.pth",
        "seresnet50_ra_224-8efdb4bb.pth",
        "resnet50_a1_0-14fe96d1.pth",
        "resnet50d_ra2-464e36ba.pth",
        "resnet20-12fca82f.th",
        "ssl_resnet50-08389792.pth",
        "deit_tiny_patch16_224.safetensors",
        "jx_vit_base_p16_224-80ecf9dd.pth",
        "vit_b_16-c867db91.pth",
        "ViT-B_16.npz",
        "BiT-M-R50x1.npz",
        "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz",
        "resnet50_weights_tf_dim_ordering_tf_kernels.h5",
        "resnet50.a1_in1k.safetensors",
        "my_resnet50_flowers.pth",
        "vit_base_patch16_224_flowers.pth",
        "model.safetensors",
        "pytorch_model.bin",
        "weights.safetensors",
        "flowers-12345678.pth",
        "gap_model.pth",
        "functional_1",
        "vit.pth",
        "vit_base_patch16_clip_224.safetensors",
        "resnetv2_50x1_bit.goog_in21k.pth",
        "resnet.weights.h5",
        "mobilenetv3_large_100_ra-f55367f5.pth",
        "tf_efficientnet_b0_ns-c0e6a31c.pth",
        "efficientnet_b5_lukemelas-1a07897c.pth",
        "efficientnet_v2_s-dd5fe13b.pth",
        "convnext_base.clip_laion2b_augreg_ft_in1k.safetensors",
        "vgg16_bn-6c64b313.pth",
    ],
)
def test_file_names_that_say_nothing_else(name):
    assert unknown_name(name) == ""


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("resnetblur50-84f4748f.pth", "resnetblur50"),
        ("resnetaa50_a1h-4cf422b3.pth", "resnetaa50_a1h"),
        ("ecaresnet50d_p-e4fa23c2.pth", "ecaresnet50d_p"),
        ("resnet50_gn_a1h2-8fe6c4d0.pth", "resnet50_gn_a1h2"),
        ("wide_resnet50_gn-95faca4d.pth", "wide_resnet50_gn"),
        ("skresnext50_ra-f40e40bf.pth", "skresnext50_ra"),
        ("resnetv2_50_a1h-000cdf49.pth", "resnetv2_50_a1h"),
        ("vit_relpos_base_patch16_224.safetensors", "vit_relpos_base_patch16_224"),
        ("vit_base_patch16_plus_clip_240.safetensors", "vit_base_patch16_plus_clip_240"),
        ("vit_base_patch16_rope_224.safetensors", "vit_base_patch16_rope_224"),
        ("beit_base_patch16_224.pth", "beit_base_patch16_224"),
        ("resnetblur50", "resnetblur50"),
        ("convnext_xxlarge.safetensors", "convnext_xxlarge"),
        ("convnext_tiny_hnf_a2h-ab7e9df2.pth", "convnext_tiny_hnf_a2h"),
        ("mobilenetv3_rw-35495452.pth", "mobilenetv3_rw"),
        ("efficientnet_b1_pruned_9ebb3fe6.pth", "efficientnet_b1_pruned_9ebb3fe6"),
        ("tf_mobilenetv3_small_minimal_100-922a7843.pth", "tf_mobilenetv3_small_minimal_100"),
    ],
)
def test_file_names_of_other_architectures(name, architecture):
    assert unknown_name(name) == architecture


MESSAGE = "resnetblur50 is not supported; nearest: resnet50; model=resnet50 loads it all the same"


@pytest.fixture(scope="module")
def resnet50():
    return {name: array.numpy() for name, array in TorchResNet((3, 4, 6, 3), True, 64, 7).state_dict().items()}


def _in_config(folder, arrays):
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnetblur50", "num_classes": 7}))
    return folder


def _in_file_name(folder, arrays):
    save_file(arrays, folder / "resnetblur50.safetensors")
    return folder / "resnetblur50.safetensors"


@pytest.mark.parametrize("write", [_in_config, _in_file_name])
def test_another_function_of_the_same_arrays_is_refused_unless_a_model_is_given(write, resnet50, tmp_path):
    location = str(write(tmp_path, resnet50))
    with pytest.raises(UnknownArchitecture) as caught:
        pretrained.open_weights(location)
    assert str(caught.value) == MESSAGE
    assert caught.value.advise("--x=") == MESSAGE.replace("model=", "--x=")
    opened = pretrained.open_weights(location, model="resnet50")
    assert opened.notes == ("resnetblur50 is not supported: loaded as resnet50, as asked",)
    assert pretrained.resolve_model(opened, "resnet50") == "resnet50"


def test_keras_says_its_name_within_the_file(tmp_path):
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = ["conv1_conv"]
        layer = group.create_group("conv1_conv")
        layer.attrs["weight_names"] = ["conv1_conv/kernel:0"]
        layer["conv1_conv/kernel:0"] = np.zeros((7, 7, 3, 8), np.float32)
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": {"name": "resnext50"}})
    with pytest.raises(UserError, match="these are weights of resnext50, which is not supported"):
        pretrained.open_weights(str(path))


def test_arguments_of_timm_complete_its_names(tmp_path):
    save_file({k: v.numpy() for k, v in TimmViT("vit").state_dict().items()}, tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "global_pool": "avg"}
    config["model_args"] = {"act_layer": "gelu_tanh", "num_heads": 6, "img_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    opened = pretrained.open_weights(str(tmp_path))
    name, _, fields = opened.model.partition(":")
    assert name == "vit_ti16"
    assert set(fields.split(",")) == {"image_size=32", "patch=8", "depth=3", "heads=6", "pool=mean", "gelu=tanh"}
    config["model_args"] = {"act_layer": "relu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownArchitecture, match=r"^vit_tiny_patch16_224 with act_layer='relu' is not supported"):
        pretrained.open_weights(str(tmp_path))


def test_a_resnet_of_timm_with_other_parts_is_refused(resnet50, tmp_path):
    save_file(resnet50, tmp_path / "model.safetensors")
    config = {"architecture": "resnet50", "global_pool": "avg", "model_args": {"aa_layer": "blur"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownArchitecture) as caught:
        pretrained.open_weights(str(tmp_path))
    assert str(caught.value) == MESSAGE.replace("resnetblur50", "resnet50 with aa_layer='blur'")
    opened = pretrained.open_weights(str(tmp_path), model="resnet50")
    assert opened.notes == ("resnet50 with aa_layer='blur' is not supported: loaded as resnet50, as asked",)


def _legacy():
    state = TorchResNet().state_dict()
    return {**state, "layer1.0.se_module.fc1.weight": torch.zeros(2, 32, 1, 1)}


def _with(name):
    return lambda: {**TimmViT("vit").state_dict(), name: torch.zeros(3)}


TELLTALES = {
    "BEiT": _with("blocks.0.attn.relative_position_bias_table"),
    "CLIP in the names of its authors": _with("ln_pre.weight"),
    "Swin Transformer V2": _with("layers.0.blocks.0.attn.logit_scale"),
    "ViT with relative positions": _with("blocks.0.attn.rel_pos.relative_position_bias_table"),
    "SigLIP": _with("attn_pool.latent"),
    "SE-ResNet of the kind that timm calls legacy": _legacy,
}


@pytest.mark.parametrize("family", TELLTALES)
def test_arrays_that_only_another_family_has_name_it(family, tmp_path):
    save_file({name: array.numpy() for name, array in TELLTALES[family]().items()}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=f"these are weights of a {family}, which is not supported; the families are"):
        pretrained.open_weights(str(tmp_path / "weights.safetensors"), model="vit_b16")


def test_arrays_of_the_supported_families_tell_of_no_other():
    for module in (TorchResNet(), TorchResNet(bottleneck=False), TorchResNet(d=True), TimmViT("deit3")):
        assert telltale({name: tuple(array.shape) for name, array in module.state_dict().items()}) == ""


@pytest.mark.parametrize(
    ("config", "cls", "kind"),
    [
        ("BeitConfig", "BeitForImageClassification", r"weights of the model type 'beit' of transformers \(BeitFor"),
        ("SiglipVisionConfig", "SiglipVisionModel", "weights of the model type 'siglip_vision_model' of transformers"),
        ("Swinv2Config", "Swinv2ForImageClassification", "weights of the model type 'swinv2' of transformers"),
        (
            "ViTMSNConfig",
            "ViTMSNForImageClassification",
            r"^the model type 'vit_msn' of transformers \(ViTMSN.*\) is not supported; nearest: vit_.*; model=vit_",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_families_of_transformers_are_named(config, cls, kind, tmp_path):
    import transformers

    sizes = {"hidden_size": 192, "num_hidden_layers": 1, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    other = {"embed_dim": 12, "depths": [1], "num_heads": [2], "image_size": 32, "window_size": 2}
    fields = {**other} if config == "Swinv2Config" else {**sizes, "intermediate_size": 64}
    getattr(transformers, cls)(getattr(transformers, config)(**fields)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=kind):
        pretrained.open_weights(str(tmp_path))
