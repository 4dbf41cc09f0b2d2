"""Where published weights are said to lie, there are some: the real timm and torchvision list them too."""

from real_packages import timm, torchvision

from jaxtl import models
from jaxtl.pretrained.architecture import is_known


def published():
    places = {}
    for family in models.families():
        places |= getattr(family, "PUBLISHED", {})
    return places


def test_those_of_timm_are_weights_that_timm_knows():
    known = set(timm().list_pretrained())
    said = {place.removeprefix("hf:timm/") for place in published().values() if place.startswith("hf:timm/")}
    assert len(said) > 50
    assert said <= known


def test_those_of_torchvision_are_the_files_that_it_downloads():
    known = {
        weights.url
        for name in torchvision().models.list_models()
        for weights in torchvision().models.get_model_weights(name)
    }
    said = {place for place in published().values() if "download.pytorch.org" in place}
    assert said
    assert said <= known


def test_what_is_published_and_what_is_exported_is_known_by_its_name():
    for family in models.families():
        for variant, place in getattr(family, "PUBLISHED", {}).items():
            if place.startswith("hf:timm/"):
                assert is_known(place.removeprefix("hf:timm/").partition(".")[0]), (variant, place)
