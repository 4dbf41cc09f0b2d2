import json
from pathlib import Path

import pytest

from jaxtl.data import choose_splits, open_source
from jaxtl.experiment.changes import changed_facts, changed_since, digests

PETALS = Path(__file__).parents[2] / "jaxtl" / "pretrained" / "petals.safetensors"


def test_what_changed_on_disk_since_a_run_is_named(config, tmp_path):
    weights = tmp_path / "net.safetensors"
    weights.write_bytes(PETALS.read_bytes())
    config.model.name, config.model.weights = "auto", str(weights)
    assert changed_since(config, tmp_path) == []  # A run that kept no digests.

    splits = choose_splits(open_source(config.data.source), train="", val="", test="")
    before = digests(splits, {"net.safetensors": "0" * 64})
    assert sorted(before) == ["data.test", "data.train", "data.val", "weights net.safetensors"]
    (tmp_path / "inputs.json").write_text(json.dumps(before))
    assert changed_since(config, tmp_path) == ["the weight file net.safetensors changed"]

    (tmp_path / "pictures" / "test" / "red" / "test0.png").unlink()
    weights.unlink()
    assert changed_since(config, tmp_path) == ["the test images changed"]
    config.data.source = f"folder:{tmp_path / 'nowhere'}"
    (line,) = changed_since(config, tmp_path)
    assert line.startswith("the data cannot be opened any more: ")


FACTS = {"model": "swin_t", "num_classes": 3, "epsilon": None, "classes": ["a"], "pixels": {"size": 8, "mean": [0.5]}}


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, []),
        # What this version knows and the one before did not; and what the name left to the family.
        ({"layout": "rgb", "pixels": {**FACTS["pixels"], "order": "rgb"}}, []),
        ({"model": "swin_t:shift_first=false,window=7", "epsilon": 1e-5}, []),
        ({"epsilon": 1e-6}, ["epsilon: 1e-05 -> 1e-06"]),
        ({"model": "swin_t:epsilon=1e-6"}, ["epsilon: 1e-05 -> 1e-06"]),
        ({"model": "swin_t:shift_first=true"}, ["model:shift_first: False -> True"]),
        ({"model": "unknown"}, ["model: 'swin_t' -> 'unknown'"]),
        ({"pixels": {"size": 8, "mean": [0.4]}}, ["pixels.mean: [0.5] -> [0.4]"]),
        # An older version goes on with a run of a newer one.
        ({"pixels": {"size": 8}}, ["pixels.mean: [0.5] -> None"]),
    ],
)
def test_facts_of_a_model_that_changed(change, lines):
    assert changed_facts(FACTS, {**FACTS, **change}) == lines
