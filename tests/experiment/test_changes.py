import json
from pathlib import Path

from jaxtl.data import choose_splits, open_source
from jaxtl.experiment.changes import changed_since, digests

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
