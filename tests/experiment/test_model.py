import jax
import pytest

from jaxtl import pretrained
from jaxtl.errors import UserError
from jaxtl.experiment.model import load_model, make_model, make_variables, open_weights
from jaxtl.models import build
from jaxtl.preprocessing import Pixels

CLASSES = ("blue", "green", "red")
PIXELS = Pixels(16, 20, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")


@pytest.fixture
def weights(config, tmp_path):
    """Puts weights of the config's model, with pixel facts of their own, into the config."""
    variables = pretrained.initialise(build(config.model.name, num_classes=3, image_size=16), jax.random.key(0), 16)
    path = tmp_path / "w.safetensors"
    pretrained.save_native(path, variables, model=config.model.name, pixels=PIXELS, classes=CLASSES)
    config.model.weights = str(path)
    return variables


def test_an_untrained_model_sees_pixels_from_minus_one_to_one(config):
    model = make_model(config, None, CLASSES)
    assert model.pixels == Pixels(16, 16, (0.5,) * 3, (0.5,) * 3, "bicubic")
    assert (model.name, model.classes, model.module.num_classes) == (config.model.name, CLASSES, 3)


def test_pixels_travel_with_weights_and_the_config_wins_field_by_field(config, weights):
    config.model.image_size = 0
    model = make_model(config, open_weights(config), CLASSES)
    assert model.pixels == PIXELS
    config.model.interpolation, config.model.std = "nearest", (1.0, 1.0, 1.0)
    assert make_model(config, open_weights(config), CLASSES).pixels == Pixels(
        16, 20, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), "nearest"
    )


def test_auto_is_what_the_weights_say_and_needs_some(config, weights):
    name = config.model.name
    config.model.name = "auto"
    assert make_model(config, open_weights(config), CLASSES).name == name
    with pytest.raises(UserError, match=r'model.name is "auto", but there are no weights to say what it is'):
        make_model(config, None, CLASSES)


def test_the_head_is_kept_or_new_as_asked(config, weights):
    opened = open_weights(config)
    model = make_model(config, opened, CLASSES)
    kept, report = make_variables(config, opened, model, head="keep")
    assert report.initialised == {}
    assert (kept["params"]["head"]["kernel"] == weights["params"]["head"]["kernel"]).all()
    _, report = make_variables(config, opened, model, head="new")
    assert sorted(report.initialised) == ["params/head/bias", "params/head/kernel"]


def test_the_facts_of_a_model_build_it_again(config, weights):
    model = make_model(config, open_weights(config), CLASSES)
    assert load_model(model.facts()) == model


def test_published_weights_follow_the_name_of_the_model(config, monkeypatch):
    asked = []
    monkeypatch.setattr(pretrained, "open_weights", lambda location, *, model: asked.append((location, model)))
    config.model.weights, config.model.name = "pretrained", "resnet50"
    open_weights(config)
    assert asked == [("hf:timm/resnet50.tv_in1k", "resnet50")]
    config.model.name = "auto"
    with pytest.raises(UserError, match=r'model.weights is "pretrained", but model.name is "auto": give the name'):
        open_weights(config)
