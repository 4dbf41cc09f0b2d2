"""Every family of transformers, saved by its own save_pretrained, computes the same here."""

import jax
import pytest
import torch
import transformers
from parity import images, load, nchw, nhwc, outputs, randomise, same, train_once

pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
TRANSFORMERS = {
    "vit": ("ViTConfig", "ViTForImageClassification", {"intermediate_size": 48}),
    "deit": ("DeiTConfig", "DeiTForImageClassification", {"intermediate_size": 128}),
    "deit_distilled": ("DeiTConfig", "DeiTForImageClassificationWithTeacher", {"intermediate_size": 64}),
    "dinov2": ("Dinov2Config", "Dinov2ForImageClassification", {"mlp_ratio": 2}),
    "dinov2_registers": (
        "Dinov2WithRegistersConfig",
        "Dinov2WithRegistersForImageClassification",
        {"mlp_ratio": 4, "num_register_tokens": 3},
    ),
}


def _saved(folder, config: str, cls: str, **fields):
    config = getattr(transformers, config)(**fields)
    module = randomise(getattr(transformers, cls)(config)).eval()
    module.save_pretrained(folder)
    return module


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=[pytest.mark.slow] * (family != "vit")) for family in TRANSFORMERS]
)
def test_transformers_vision_transformers(family, tmp_path):
    config, cls, fields = TRANSFORMERS[family]
    module = _saved(tmp_path, config, cls, **SIZES, **fields)
    # A smaller and a larger grid than that of the 4 x 4 positions.
    for size in (24, 56):
        model, variables = load(tmp_path, num_classes=5, image_size=size)
        batch = images(size)
        with torch.no_grad():
            options = {} if family.startswith("dinov2") else {"interpolate_pos_encoding": True}
            theirs = module(nchw(batch), output_hidden_states=True, **options)
        middle, logits = outputs(model, variables, batch, after="block1")
        same(logits, theirs.logits)
        same(middle, theirs.hidden_states[2])


@pytest.mark.slow
def test_transformers_base_model_without_head(tmp_path):
    config = transformers.ViTConfig(**SIZES, intermediate_size=64)
    module = randomise(transformers.ViTModel(config)).eval()
    module.save_pretrained(tmp_path)
    model, variables = load(tmp_path, num_classes=0, image_size=32)
    batch = images(32)
    with torch.no_grad():
        same(jax.jit(model.apply)(variables, batch), module(nchw(batch)).last_hidden_state[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("layer_type", ["bottleneck", "basic"])
def test_transformers_resnet(layer_type, tmp_path):
    embedding = 8
    first = embedding * (4 if layer_type == "bottleneck" else 1)
    module = _saved(
        tmp_path,
        "ResNetConfig",
        "ResNetForImageClassification",
        embedding_size=embedding,
        hidden_sizes=[first, 2 * first, 4 * first],
        depths=[2, 1, 2],
        layer_type=layer_type,
        num_labels=5,
    )
    model, variables = load(tmp_path, num_classes=5, image_size=50)
    batch = images(50)
    with torch.no_grad():
        theirs = module(nchw(batch), output_hidden_states=True)
    middle, logits = outputs(model, variables, batch, after="layer2.0")
    same(logits, theirs.logits)
    same(middle, nhwc(theirs.hidden_states[2]))

    module.train()
    batch = images(48, count=4)
    logits, statistics = train_once(model, variables, batch)
    same(logits, module(nchw(batch)).logits)
    updated = dict(module.named_buffers())
    same(statistics["bn1/mean"], updated["resnet.embedder.embedder.normalization.running_mean"])
    same(statistics["layer3.1/bn1/var"], updated["resnet.encoder.stages.2.layers.1.layer.0.normalization.running_var"])


@pytest.mark.slow
def test_transformers_bit(tmp_path):
    module = _saved(
        tmp_path,
        "BitConfig",
        "BitForImageClassification",
        embedding_size=8,
        hidden_sizes=[32, 64, 128],
        depths=[2, 1, 2],
        num_groups=4,
        num_labels=5,
    )
    model, variables = load(tmp_path, num_classes=5, image_size=50)
    batch = images(50)
    with torch.no_grad():
        theirs = module(nchw(batch), output_hidden_states=True)
    middle, logits = outputs(model, variables, batch, after="layer2.0")
    same(logits, theirs.logits)
    same(middle, nhwc(theirs.hidden_states[2]))
