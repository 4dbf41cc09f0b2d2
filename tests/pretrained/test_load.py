"""Adoption: every array and every leaf is accounted for, or the error lists all that do not fit."""

import json

import jax
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch_references import TimmViT, TorchResNet

from jaxtl import models, pretrained
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels

CLASSES = ("ash", "beech", "cedar", "date palm", "elm")
NAME = "vit_ti16:image_size=32,patch=8,depth=3"


@pytest.fixture
def source(tmp_path):
    """A small ViT in timm's names with five named classes; yields its path."""
    torch.manual_seed(0)
    module = TimmViT("vit")
    torch.nn.init.normal_(module.pos_embed)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 0.8}
    config = {"architecture": "vit_tiny_patch8_32", "label_names": list(CLASSES), "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def _adopt(source, *, num_classes=5, name=NAME, image_size=32, channels=3, **options):
    model = models.build(name, num_classes=num_classes, image_size=image_size)
    opened = pretrained.open_weights(str(source))
    return pretrained.load_pretrained(
        opened, model, image_size=image_size, rng=jax.random.key(0), channels=channels, **options
    )


def test_opening_reads_the_facts_and_no_array(source, monkeypatch):
    opened = pretrained.open_weights(str(source))
    assert opened.model == NAME
    assert opened.classes == CLASSES
    assert opened.pixels == Pixels(32, 40, (0.5,) * 3, (0.5,) * 3, "bicubic")
    assert opened.pixels_from == "config.json"
    assert (opened.format, opened.key_mapping.name, opened.num_classes, opened.epsilon) == (
        "safetensors",
        "timm",
        5,
        1e-6,
    )


def test_the_load_report_accounts_for_every_array(source):
    variables, load_report = _adopt(source, classes=CLASSES)
    facts = load_report.to_json()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["head"] == "kept: 5 classes"
    assert facts["loaded"]["params/head/kernel"] == {"from": ["head.weight"], "shape": [192, 5]}
    assert len(facts["loaded"]) == len(jax.tree.leaves(variables)) == len(pretrained.open_weights(str(source)).arrays)
    assert facts["dropped"] == facts["initialised"] == facts["resized"] == {}
    assert len(facts["sha256"]["model.safetensors"]) == 64
    table = load_report.table()
    for text in ("timm names", "40 -> 32 bicubic", "from config.json", "5, ash ... elm", "kept: 5 classes"):
        assert text in table


def test_the_load_report_is_known_without_reading_an_array(source):
    model = models.build(NAME, num_classes=7)
    opened = pretrained.open_weights(str(source))
    for name in opened.arrays.loaders:
        opened.arrays.loaders[name] = lambda: pytest.fail("an array was read")
    examined = pretrained.examine(opened, model, image_size=32)
    assert examined == _adopt(source, num_classes=7)[1]


@pytest.mark.parametrize(
    ("num_classes", "head", "classes", "decision"),
    [
        (5, "auto", None, "kept: 5 classes"),
        (5, "auto", ("Ash, Fraxinus", "beech", "CEDAR", "date_palm", "oak"), "kept: 5 classes"),
        (
            5,
            "auto",
            ("oak", "pine", "cedar", "fir", "yew"),
            "new: the class names differ ('oak' is none of 'ash', 'beech', 'cedar', ...)",
        ),
        (7, "auto", None, "new: the weights have 5 classes, 7 are wanted"),
        (5, "new", CLASSES, "new: as asked"),
        (0, "auto", None, "dropped: the model is built without one"),
    ],
)
def test_the_head_is_kept_where_the_classes_are_the_same(source, num_classes, head, classes, decision):
    variables, load_report = _adopt(source, num_classes=num_classes, head=head, classes=classes)
    assert load_report.head == decision
    if decision.startswith("kept"):
        assert np.any(variables["params"]["head"]["kernel"])
    elif num_classes:
        assert variables["params"]["head"]["kernel"].shape == (192, num_classes)
        assert not np.any(variables["params"]["head"]["kernel"])
        assert load_report.initialised == {"params/head/bias": [num_classes], "params/head/kernel": [192, num_classes]}
        assert load_report.dropped == {"head.bias": [5], "head.weight": [5, 192]}
    else:
        assert "head" not in variables["params"]
        assert load_report.dropped == {"head.bias": [5], "head.weight": [5, 192]}


@pytest.mark.parametrize(
    ("num_classes", "classes", "reason"),
    [(7, None, "has 5 classes|have 5 classes"), (5, ("oak", "pine", "cedar", "fir", "yew"), "the class names differ")],
)
def test_a_head_of_other_classes_cannot_be_kept(source, num_classes, classes, reason):
    with pytest.raises(UserError, match=f"its head cannot be kept, .*({reason})"):
        _adopt(source, num_classes=num_classes, head="keep", classes=classes)


def test_an_unknown_choice_for_the_head_is_an_error(source):
    with pytest.raises(UserError, match="none of auto, keep, new"):
        _adopt(source, head="maybe")


def test_another_variant_is_refused_with_all_misfits_and_the_one_that_fits(source):
    with pytest.raises(UserError) as caught:
        _adopt(source, name="vit_ti16:image_size=32,patch=8,depth=4,mlp=64")
    message = str(caught.value)
    assert "params/block0/mlp/fc1/kernel: the weights have (192, 768), the model (192, 64)" in message
    assert "more" in message
    assert (
        f'does not fit the model. These are weights of {NAME}: give that as the name of the model, or "auto":\n'
        in message
    )


def test_arrays_without_a_place_and_leaves_without_an_array_are_listed_together(source):
    state = TimmViT("vit").state_dict()
    del state["blocks.1.norm1.bias"]
    state["adapter.down"] = torch.ones(3)
    state["fc_norm.weight"] = torch.ones(192)
    save_file(state, source / "model.safetensors")
    with pytest.raises(UserError) as caught:
        _adopt(source)
    message = str(caught.value)
    assert "adapter.down: no rule names this array" in message
    assert "fc_norm.weight: the model has no params/fc_norm/scale" in message
    assert "params/block1/norm1/bias: the weights have nothing for it" in message


def test_another_family_is_refused(tmp_path):
    path = tmp_path / "resnet.safetensors"
    save_file(TorchResNet().state_dict(), path)
    with pytest.raises(UserError, match="the model has no params/conv1/kernel"):
        _adopt(path)


def test_arrays_of_no_family_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"transformer.h.0.attn.weight": torch.ones(2)}, path)
    with pytest.raises(UserError, match=r"no model family that is known here: transformer\.h\.0"):
        pretrained.open_weights(str(path))


def test_positions_are_fitted_to_another_image_size(source):
    variables, load_report = _adopt(source, image_size=48)
    assert variables["params"]["pos_embed"].shape == (1, 37, 192)
    assert load_report.resized == {"params/pos_embed": "[1, 17, 192] -> [1, 37, 192]"}
    assert "[1, 17, 192] -> [1, 37, 192]" in load_report.table()


@pytest.mark.parametrize("channels", [1, 4])
def test_the_first_layer_is_fitted_to_other_channels(source, channels):
    before, _ = _adopt(source)
    variables, load_report = _adopt(source, channels=channels)
    kernel = np.asarray(before["params"]["patch_embed"]["kernel"])
    remapped = np.asarray(variables["params"]["patch_embed"]["kernel"])
    assert remapped.shape == (8, 8, channels, 192)
    assert list(load_report.resized) == ["params/patch_embed/kernel"]
    if channels == 1:
        np.testing.assert_allclose(remapped[:, :, 0], kernel.sum(axis=2), rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_allclose(remapped[:, :, :3], kernel * 0.75, rtol=1e-6)


def test_a_model_that_differs_from_what_its_weights_imply_is_said(source):
    _, load_report = _adopt(source, name=NAME + ",gelu=tanh,epsilon=1e-3")
    assert load_report.contradicted == {"epsilon": "the weights imply 1e-06, the model has 0.001"}
    assert "contradicted" in load_report.table()


def test_half_precision_files_become_float32(source):
    state = {name: tensor.bfloat16() for name, tensor in TimmViT("vit").state_dict().items()}
    save_file(state, source / "model.safetensors")
    variables, _ = _adopt(source)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    kernel = variables["params"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel, state["head.weight"].float().numpy().T)


def test_adopted_arrays_can_be_donated(source):
    variables, _ = _adopt(source)
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 2, tree), donate_argnums=0)
    expected = jax.tree.map(lambda leaf: np.asarray(leaf) * 2, variables)
    jax.tree.map(np.testing.assert_array_equal, step(variables), expected)
    again, _ = _adopt(source)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(2 * a, b), again, expected)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("auto", NAME),
        ("vit_ti16", "vit_ti16"),
        ("vit_ti16:epsilon=0.01", "vit_ti16:epsilon=0.01"),
    ],
)
def test_a_model_name_is_completed_by_its_weights(source, name, full):
    assert pretrained.resolve_model(pretrained.open_weights(str(source)), name) == full


def test_auto_needs_a_source_that_says_what_it_is(tmp_path):
    save_file(TimmViT("vit", width=80, heads=5).state_dict(), tmp_path / "model.safetensors")
    opened = pretrained.open_weights(str(tmp_path))
    assert opened.model == ""
    with pytest.raises(UserError, match="does not say which model it holds: give the name of the model"):
        pretrained.resolve_model(opened, "auto")


def test_weights_of_a_run_need_a_run(tmp_path):
    with pytest.raises(UserError, match=r"has no model\.json"):
        pretrained.open_weights(f"run:{tmp_path}")


def test_plain_initialisation_has_a_zero_head():
    model = models.build("vit_ti16:image_size=32,patch=8,depth=1", num_classes=4)
    variables = pretrained.initialise(model, jax.random.key(0), 32)
    assert not np.any(variables["params"]["head"]["kernel"])
    assert np.std(variables["params"]["block0"]["attn"]["qkv"]["kernel"]) > 0.01


def test_the_runs_of_a_process_share_the_program_that_initialises_their_model():
    traced = []

    class Counted(tiny.Tiny):
        def run_group(self, x, name, train):
            traced.append(name)
            return super().run_group(x, name, train)

    first, second = (pretrained.initialise(Counted(), jax.random.key(seed), 4)["params"] for seed in (0, 1))
    assert traced == ["stem", "body", "head"]
    assert np.any(first["stem"]["kernel"] != second["stem"]["kernel"])
