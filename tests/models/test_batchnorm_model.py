"""Models with BatchNorm: their fields are those of one class, and stand in names where they always stood."""

import dataclasses

import pytest

from jaxtl import models
from jaxtl.models.batchnorm_model import BatchNormModel, ordered_fields
from jaxtl.models.densenet import DenseNet
from jaxtl.models.inception_v3 import InceptionV3
from jaxtl.models.vit import ViT

MODELS = [family.MODEL for family in models.families() if issubclass(family.MODEL, BatchNormModel)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_family_repeats_no_field_without_another_default(model):
    shared = {field.name: field.default for field in dataclasses.fields(BatchNormModel)}
    repeated = [name for name in model.__annotations__ if name in shared and name not in ("parent", "name")]
    assert all(getattr(model, name) != shared[name] for name in repeated)


def test_names_have_fields_where_they_always_had_them():
    fields = {"layers": (1, 1), "epsilon": 1e-3, "width": 8, "unbiased": False}
    assert models.spec(DenseNet, fields) == "densenet121:width=8,epsilon=0.001,unbiased=false,layers=1-1"
    assert models.spec(InceptionV3, {"momentum": 0.99, "aux": False}) == "inception_v3:aux=false,momentum=0.99"
    assert ordered_fields(ViT) == list(dataclasses.fields(ViT))


def test_models_are_equal_by_their_fields():
    model = models.build("densenet121:epsilon=0.001", num_classes=3)
    assert model == models.build("densenet121", num_classes=3).clone(epsilon=1e-3)
    assert model != models.build("densenet121", num_classes=3)
    assert "epsilon = 0.001" in repr(model)
