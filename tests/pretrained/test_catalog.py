"""The list of models: each is in it, with the number of parameters that it has."""

import pytest

from jaxtl import models
from jaxtl.pretrained import catalog


def test_every_model_has_its_number_of_parameters_kept():
    assert set(catalog.kept_parameters()) == set(models.names()), "run python -m jaxtl.pretrained.catalog"


# As published, less the head: of ResNet-50 25,557,032 with 2,049,000, of VGG16 138,357,544 with 4,097,000.
@pytest.mark.parametrize(("name", "count"), [("resnet50", 23_508_032), ("vgg16", 134_260_544), ("vit_b16", 85_798_656)])
def test_numbers_are_those_of_the_published_models(name, count):
    assert catalog.parameters(name) == count


@pytest.mark.slow
@pytest.mark.parametrize("family", models.families(), ids=lambda family: family.__name__.rpartition(".")[2])
def test_a_kept_number_is_what_is_counted(family):
    name = min(family.VARIANTS, key=catalog.kept_parameters().__getitem__)
    assert catalog.count_parameters(name) == catalog.parameters(name)


def test_a_model_with_other_fields_is_counted():
    assert catalog.parameters("vit_ti16:depth=1") < catalog.parameters("vit_ti16") / 5
