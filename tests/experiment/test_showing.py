import itertools

import numpy as np
import pytest
from PIL import Image

from jaxtl.errors import UserError
from jaxtl.experiment import showing, steps
from jaxtl.experiment.build import build
from jaxtl.experiment.input_pipeline import load_into_memory, make_inputs
from jaxtl.experiment.showing import draw_sheets
from jaxtl.preprocessing import Pixels
from jaxtl.pretrained import load
from jaxtl.pretrained.native import save_native


@pytest.fixture
def drawn(monkeypatch):
    """Collects what the sheets are drawn of: their images and captions."""
    sheets = []
    draw = showing.contact_sheet

    def collect(images, captions, **options):
        sheets.append((images, captions))
        return draw(images, captions, **options)

    monkeypatch.setattr(showing, "contact_sheet", collect)
    return sheets


def trained_on(config, workdir):
    """Returns the batches of the first two epochs as a run reads them, and its experiment."""
    experiment = load_into_memory(build(config))
    inputs = make_inputs(experiment, workdir, stages=experiment.plan.stages, epochs=5.0)
    assert not inputs.cached
    return experiment, list(itertools.islice(inputs.batches(0), 6))


@pytest.mark.parametrize("augment", [{}, {"preset": "strong", "rotate": 20.0}, {"crop": "none", "flip": 0.0}])
def test_what_is_shown_is_what_is_trained(config, tmp_path, drawn, capsys, augment):
    config.augment.update(augment)
    config.data.workers = 2
    paths = draw_sheets(config, tmp_path / "shown")
    assert [path.name for path in paths] == ["show_train.png", "show_eval.png", "show_one.png"]
    assert capsys.readouterr().out.endswith("".join(f"{path}\n" for path in paths))
    for path in paths:
        Image.open(path).verify()
    experiment, batches = trained_on(config, tmp_path / "run")
    images, labels = (np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
    (train, names), (evaluated, eval_names), (one, epochs) = drawn
    np.testing.assert_array_equal(train, images[:20])
    assert names == [("blue", "green", "red")[label] for label in labels[:20]]
    # The one image is the first of the split; where it comes in the first two epochs, its view is the same.
    for epoch, view in enumerate(one[:2]):
        assert (images[24 * epoch : 24 * (epoch + 1)] == view).all(axis=(1, 2, 3)).any()
    assert (len(one), epochs[-1]) == (16, "epoch 16")
    seen = []
    for batch in showing.options.evaluation_batches(experiment.config, experiment.model.pixels)(experiment.splits.val):
        seen += list(batch["image"][batch["mask"] > 0])
    np.testing.assert_array_equal(evaluated, seen)
    assert eval_names == ["blue"] * 2 + ["green"] * 2 + ["red"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("mixing", [{"mixup": 0.8}, {"mixup": 0.4, "cutmix": 0.4}])
def test_mixed_images_are_shown_mixed_as_the_first_step_mixes_them(config, tmp_path, drawn, mixing):
    config.augment.update(mixing)
    draw_sheets(config, tmp_path / "shown")
    experiment, batches = trained_on(config, tmp_path / "run")
    (stage,) = experiment.plan.stages
    optimizer = experiment.plan.make_optimizer(stage)
    step, state = steps.make_step(experiment, stage, optimizer), steps.make_state(experiment, stage, optimizer)

    class Prepared(Exception):
        """The step has come so far."""

    def prepare(batch, key):
        raise Prepared(step.keywords["prepare"](batch, key))

    with pytest.raises(Prepared) as prepared:
        step.func(state, batches[0], **{**step.keywords, "prepare": prepare})
    pixels = experiment.model.pixels
    mean, std = (np.array(values)[None, None, None] for values in (pixels.mean, pixels.std))
    images = (np.asarray(prepared.value.args[0]["image"]) * std + mean) * 255
    (shown, captions), *_ = drawn
    assert np.abs(shown - images).max() <= 0.51
    blended = [caption for caption in captions if "," in caption]
    assert blended
    assert all(float(part.split()[0]) < 1 for caption in blended for part in caption.split(", "))


def test_cached_features_of_the_plain_views_are_shown_as_such(config, tmp_path, drawn, capsys):
    config.finetune.update({"unfreeze": "head", "cache_features": "on"})
    draw_sheets(config, tmp_path)
    assert "what trains sees each image as evaluation does" in capsys.readouterr().out
    one = drawn[2][0]
    assert (one == one[:1]).all()


def test_weights_say_how_pixels_look_and_no_array_of_them_is_read(config, tmp_path, monkeypatch, drawn, capsys):
    experiment = build(config)
    pixels = Pixels(16, 20, (0.1,) * 3, (0.2,) * 3, "nearest")
    path = tmp_path / "weights.safetensors"
    save_native(
        path, experiment.variables, model=experiment.model.name, pixels=pixels, classes=experiment.model.classes
    )
    config.model.weights = str(path)
    monkeypatch.setattr(load, "_put", None)
    draw_sheets(config, tmp_path / "shown")
    image = Image.open(tmp_path / "pictures" / "val" / "blue" / "val0.png")
    # Its shorter side of 20 pixels is the resize of those pixels, so the crop alone is left.
    np.testing.assert_array_equal(drawn[1][0][0], np.asarray(image)[2:18, 2:18])


def test_what_a_rule_chooses_for_small_images_is_shown_and_trained(config, tmp_path, capsys):
    experiment = build(config)
    path = tmp_path / "weights.safetensors"
    model = experiment.model
    save_native(path, experiment.variables, model=model.name, pixels=model.pixels, classes=model.classes)
    config.model.weights, config.augment.preset, config.finetune.layer_decay = str(path), "auto", "auto"
    draw_sheets(config, tmp_path / "shown")
    line = "augment.preset is 'small_images': a quarter of 20 x 20 pixels shows little; such images are padded, then "
    assert line in capsys.readouterr().out
    chosen = build(config)
    assert any(note.startswith(line) for note in chosen.plan.notes)
    assert sorted(set(chosen.plan.multipliers.values()))[-2:] == [0.85, 1.0]
    assert (chosen.config.augment.crop, chosen.config.augment.pad) == ("pad_crop", 4)


def test_without_data_nothing_is_left_behind(config, tmp_path):
    config.data.source = f"folder:{tmp_path / 'nowhere'}"
    with pytest.raises(UserError, match="nowhere"):
        draw_sheets(config, tmp_path / "shown")
    assert not (tmp_path / "shown").exists()
