"""A model name is completed by its weights: what leaves no trace in the shapes is theirs, unless the name says it."""

import google_references as google
import jax
import numpy as np
import pytest
import torch
import transformers
from parity import images, load, nchw, randomise, same
from safetensors.torch import save_file
from torch_references import TorchResNet

from jaxtl import config, pretrained
from jaxtl.errors import UserError
from jaxtl.experiment import model as model_lib
from jaxtl.pretrained import resolve

pytestmark = pytest.mark.filterwarnings("ignore")

RESNET = "resnet50:stages=2-1-2,width=8"
VIT = "vit_s16:image_size=32,patch=8,width=32,depth=3,heads=4"


def _resnet(folder):
    fields = {"embedding_size": 8, "hidden_sizes": [32, 64, 128], "depths": [2, 1, 2], "num_labels": 5}
    made = transformers.ResNetConfig(**fields, downsample_in_bottleneck=True)
    module = randomise(transformers.ResNetForImageClassification(made)).eval()
    module.save_pretrained(folder)
    return folder, 64, lambda batch: module(nchw(batch)).logits


def _vit(folder):
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    made = transformers.ViTConfig(**sizes, intermediate_size=128, hidden_act="gelu_pytorch_tanh", num_labels=5)
    module = randomise(transformers.ViTForImageClassification(made)).eval()
    module.save_pretrained(folder)
    return folder, 32, lambda batch: module(nchw(batch)).logits


def _google(folder):
    draw = google.Draw(1)
    google.draw_embedding(draw, 8, 3, 32, grid=4)
    google.draw_transformer(draw, 32, 3, 4, classes=5, pre_logits=0)
    np.savez(folder / "vit.npz", **draw.arrays)
    return folder / "vit.npz", 32, lambda batch: google.vit(draw.arrays, batch)[1]


CASES = {
    "stride in the bottleneck": (_resnet, RESNET, "resnet50:stages=2-1-2,width=8,stride_first=true"),
    "tanh": (_vit, VIT, f"{VIT},epsilon=1e-12,gelu=tanh"),
    "google": (_google, VIT, f"{VIT},gelu=tanh"),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case != "google")) for case in CASES])
def test_a_given_name_computes_what_the_weights_were_trained_with(case, tmp_path):
    make, name, full = CASES[case]
    location, size, reference = make(tmp_path)
    opened = pretrained.open_weights(str(location), model=name)
    assert pretrained.resolve_model(opened, name) == full
    model, variables = load(location, num_classes=5, image_size=size, name=name)
    batch = images(size)
    with torch.no_grad():
        same(jax.jit(model.apply)(variables, batch), reference(batch))


def _config(location, name):
    made = config.default()
    made.model.name, made.model.weights = name, str(location)
    made.model.mean = made.model.std = (0.5, 0.5, 0.5)
    return made


def test_the_commands_build_the_same_model_and_say_what_the_weights_settled(tmp_path):
    location, _, _ = _resnet(tmp_path)
    made = _config(location, RESNET)
    opened = model_lib.open_weights(made)
    model = model_lib.make_model(made, opened, tuple("abcde"))
    assert model.module.stride_first
    assert model.facts()["model"] == model.name == "resnet50:stages=2-1-2,width=8,stride_first=true"
    report = model_lib.examine_weights(made, opened, model)
    note = f"stride_first=true, as the weights say: {RESNET} alone has false"
    assert (report.notes, report.contradicted) == ([note], {})
    assert f"model         {note}" in report.table()
    assert model_lib.load_model(model.facts()).module == model.module.clone(image_size=model.pixels.size)


def test_what_a_name_has_none_of_is_called_none(monkeypatch):
    monkeypatch.setattr(resolve, "_settled", lambda weights, name: {"head_hidden": (64,), "head_pool": "flatten"})
    assert [note.rpartition(" alone ")[2] for note in resolve.resolution_notes(None, "lenet5")] == ["has none"] * 2


def test_the_commands_name_the_key_that_loads_an_unknown_architecture(tmp_path):
    path = tmp_path / "resnetblur18-0123.safetensors"
    save_file(TorchResNet(stages=(1, 1), bottleneck=False).state_dict(), path)
    nearest = "resnet18:width=8,stages=1-1"
    advice = f"nearest: {nearest}; --config.model.name={nearest} loads it all the same"
    with pytest.raises(UserError) as caught:
        model_lib.open_weights(_config(path, "auto"))
    assert str(caught.value) == f"resnetblur18-0123 is not supported; {advice}"
    made = _config(path, nearest)
    opened = model_lib.open_weights(made)
    report = model_lib.examine_weights(made, opened, model_lib.make_model(made, opened, tuple("abcde")))
    assert report.notes == [f"resnetblur18-0123 is not supported: loaded as {nearest}, as asked"]


def test_what_the_name_says_holds_against_the_weights_and_is_said(tmp_path):
    location, _, _ = _resnet(tmp_path)
    made = _config(location, f"{RESNET},stride_first=false,epsilon=1e-3")
    opened = model_lib.open_weights(made)
    model = model_lib.make_model(made, opened, tuple("abcde"))
    assert (model.module.stride_first, model.module.epsilon, model.epsilon) == (False, 1e-3, 1e-3)
    report = model_lib.examine_weights(made, opened, model)
    assert report.contradicted == {"stride_first": "the weights imply True, the model has False"}
    assert report.notes == []


def test_facts_written_before_names_were_complete_still_open():
    facts = {"model": VIT, "num_classes": 5, "epsilon": 1e-12, "classes": tuple("abcde")}
    facts["pixels"] = {"size": 32, "resize": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    assert model_lib.load_model(facts).module.epsilon == 1e-12
    opened = pretrained.from_native("run:x", {}, facts, ())
    assert pretrained.resolve_model(opened, VIT) == f"{VIT},epsilon=1e-12"
    assert pretrained.resolve_model(opened, f"{VIT},epsilon=1e-3") == f"{VIT},epsilon=1e-3"


def test_conventions_of_keras_are_no_reason_to_refuse_the_plain_name():
    facts = {"model": "resnet50:conv_bias=true,stride_first=true", "num_classes": 5, "epsilon": None, "pixels": None}
    opened = pretrained.from_native("x", {}, facts, ())
    assert pretrained.resolve_model(opened, "resnet50") == "resnet50:stride_first=true,conv_bias=true"
    # Another network is one: that of a stem in three parts is not made of a plain one in silence.
    deep = pretrained.from_native("x", {}, {**facts, "model": "resnet50d"}, ())
    assert pretrained.resolve_model(deep, "resnet50") == "resnet50:average_shortcut=true"


def test_weights_of_another_family_are_named_in_one_line(tmp_path):
    folder, *_ = _vit(tmp_path / "net")
    opened = pretrained.open_weights(str(folder))
    with pytest.raises(
        UserError, match=r"holds weights of vit\S*, not of resnet50: give weights of resnet50, or"
    ) as told:
        pretrained.resolve_model(opened, "resnet50")
    assert told.value.arguments == ("model", "weights")
