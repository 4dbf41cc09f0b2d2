"""Vision Transformers of timm, torchvision and transformers compute the same here, and so do their hybrids."""

import jax
import pytest
import torch
from parity import images, load, nchw, outputs, randomise, same
from real_networks import CLASSES, check, hf, save, tm
from real_packages import timm, torchvision

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 3, "num_heads": 3}
REGISTERS = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}
KINDS = {
    "vit": ("vit_tiny_patch16_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "deit3": ("deit3_small_patch16_224", {}),
    "registers": ("vit_tiny_patch16_224", REGISTERS),
    "average": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
    "clip": ("vit_base_patch16_clip_224", {}),
    "clip_quickgelu": ("vit_base_patch16_clip_quickgelu_224", {}),
}


# Of another size than that of its positions, timm resizes them as it goes.
@pytest.mark.parametrize("kind", KINDS)
def test_those_of_timm(kind, tmp_path):
    name, arguments = KINDS[kind]
    module = tm(name, **SMALL, dynamic_img_size=True, **arguments)
    check(module, tmp_path, sizes=(32, 24), after="block1", part="blocks.1")


def test_hybrids_of_timm(tmp_path):
    timm()
    from timm.models import vision_transformer_hybrid as hybrid

    sizes = {"img_size": 64, "embed_dim": 192, "depth": 2, "num_heads": 3, "num_classes": CLASSES}
    module = hybrid._create_vision_transformer_hybrid(
        "vit_base_r50_s16_224", backbone=hybrid._resnetv2((1, 2)), **sizes
    )
    check(module, tmp_path, sizes=(64,), after="layer2.1", part="patch_embed.backbone.stages.1")


def _torchvision(size):
    from torchvision.models import vision_transformer

    sizes = {"num_layers": 3, "num_heads": 3, "hidden_dim": 192, "mlp_dim": 384}
    return vision_transformer.VisionTransformer(size, 8, num_classes=CLASSES, **sizes)


def test_that_of_torchvision(tmp_path):
    torchvision()
    module = _torchvision(32)
    check(module, tmp_path, sizes=(32,), after="block1", part="encoder.layers.encoder_layer_1")

    # For another size torchvision has its positions resized before they are loaded.
    from torchvision.models.vision_transformer import interpolate_embeddings

    other = _torchvision(48)
    other.load_state_dict(interpolate_embeddings(48, 8, module.state_dict()))
    model, variables = load(save(module, tmp_path), num_classes=CLASSES, image_size=48)
    with torch.no_grad():
        same(outputs(model, variables, images(48), after="block1")[1], other.eval()(nchw(images(48))))


TOWER = {"hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 3}
TEXTS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}


def _clip_config(**fields):
    return {"vision_config": {**TOWER, "image_size": 32, "patch_size": 8, **fields}, "text_config": TEXTS}


@pytest.mark.parametrize("gelu", ["quick_gelu", "gelu"])
def test_clip_of_transformers(gelu, tmp_path):
    module = hf("CLIP", **_clip_config(hidden_act=gelu))
    check(module, tmp_path, sizes=(32,), after="block1", part="vision_model.encoder.layers.1")


def test_the_image_tower_of_clip_is_taken_out_of_the_whole(tmp_path):
    import transformers

    module = randomise(transformers.CLIPModel(transformers.CLIPConfig(**_clip_config()))).eval()
    module.save_pretrained(tmp_path)
    for size in (32, 48):
        model, variables = load(tmp_path, num_classes=0, image_size=size)
        batch = images(size)
        with torch.no_grad():
            theirs = module.vision_model(nchw(batch), interpolate_pos_encoding=True).pooler_output
        same(jax.jit(model.apply)(variables, batch), theirs)
