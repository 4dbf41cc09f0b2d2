"""A run that an earlier version (a53bf70) began goes on: two stages, blocks in a loop, rules, an average of weights."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EARLIER = Path(__file__).parent / "earlier"
# What that version wrote in its own last lines, had it not been stopped.
LOSSES = {(9, "train"): 1.035184, (9, "val"): 1.019399, (12, "train"): 1.017115, (12, "val_ema"): 1.015769}


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """Puts the run, its recipe and its pictures into the current folder."""
    for number, color in enumerate(("red", "green", "blue")):
        (tmp_path / "pictures" / color).mkdir(parents=True)
        for i in range(16):
            pixels = np.random.default_rng([number, i]).integers(0, 120, (20, 20, 3), dtype=np.uint8)
            pixels[..., number] += 120
            Image.fromarray(pixels).save(tmp_path / "pictures" / color / f"{i:02d}.png")
    with tarfile.open(EARLIER / "run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    shutil.copy(EARLIER / "recipe.py", tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_an_earlier_run_goes_on_where_it_stopped(jaxtl, earlier):
    status, out, err = jaxtl("train", "--config=recipe.py", "--workdir=run")
    assert (status, err) == (0, "")
    assert "continues at step 6 of 12" in out
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = {(line["step"], line["split"]): line["loss"] for line in lines}
    # Then it had decay on position embeddings and tokens, too: a run goes on as it began.
    assert json.loads(Path("run/weight_decay.json").read_text()) == {"spares": []}
    # Its splits and metrics, too, are those of its beginning, though three classes need no top-5 accuracy.
    assert {key.partition(".")[0] for key in json.loads(Path("run/inputs.json").read_text())} == {"data"}
    assert all("top5" in line for line in lines if line["split"] == "val")
    assert "instead of" not in out
    for key, loss in LOSSES.items():
        assert losses[key] == pytest.approx(loss, abs=1e-5)


@pytest.mark.slow
def test_an_earlier_run_predicts_and_is_weights(jaxtl, earlier, tmp_path):
    status, out, err = jaxtl("predict", "--workdir=run", "pictures/red/00.png")
    assert status == 0
    assert "the run in run is not finished" in err
    assert json.loads(out)["class"] == "red"
    flags = ("--config.model.weights=run:run", "--config.data.source=folder:pictures")
    status, out, _ = jaxtl("eval", "--config=recipe.py", "--workdir=check", *flags)
    assert status == 0
    assert json.loads(Path("check/results.json").read_text())["test"]["accuracy"] == 1.0
