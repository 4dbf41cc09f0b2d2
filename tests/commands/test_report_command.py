"""The page of a run: written at the end of train and eval, and by the report command at any time."""

import json
import re
import shutil

import numpy as np
import pytest

from jaxtl import config as config_lib
from jaxtl.data.decode import decode, eval_view
from jaxtl.data.normalize import normalize
from jaxtl.experiment import reporting
from jaxtl.experiment.build import build_run
from jaxtl.experiment.mapping import map_images


@pytest.fixture(scope="module")
def reported(trained):
    """A run whose report was written as it ended."""
    return trained("reported", "--config.eval.report=true")


def test_train_writes_a_page_with_pictures_curves_and_what_trained(reported):
    page = (reported / "run" / "report" / "index.html").read_text()
    results = json.loads((reported / "run" / "results.json").read_text())
    assert f"{100 * results['test']['accuracy']:.1f} % of 18 images of test right" in page
    assert page.count("data:image/jpeg") >= 12
    for section in ("learning", "classes", "confusion", "uncertain", "curves", "groups", "data", "repeat"):
        assert f'id="{section}"' in page
    assert "All of 24 images looked at are 24 x 20 pixels." in page
    assert f"report    {reported / 'run' / 'report' / 'index.html'}" in (reported / "printed").read_text()
    card = (reported / "run" / "report" / "model_card.md").read_text()
    assert "Started from random numbers" in card
    assert "| accuracy |" in (reported / "run" / "report" / "report.md").read_text()


def test_what_a_run_notes_at_its_start(reported):
    run = reported / "run"
    groups = json.loads((run / "groups.json").read_text())
    assert [row["group"] for row in groups["groups"]] == ["embed", "block0", "block1", "head"]
    assert (
        sum(row["trainable"] for row in groups["groups"])
        == json.loads((run / "results.json").read_text())["parameters"]["trainable"]
    )
    data = json.loads((run / "data.json").read_text())
    assert data["splits"]["test"] == {"images": 18, "per_class": {"blue": 6, "green": 6, "red": 6}}
    assert json.loads((run / "environment.json").read_text())["devices"].endswith(" x cpu")


def test_the_same_page_is_written_again(reported, jaxtl, tmp_path):
    run = shutil.copytree(reported / "run", tmp_path / "run")
    before = (run / "report" / "index.html").read_text()
    shutil.rmtree(run / "report")
    status, out, err = jaxtl("report", f"--workdir={run}")
    assert (status, out, err) == (0, f"{run / 'report' / 'index.html'}\n", "")
    again = (run / "report" / "index.html").read_text()
    assert again.replace(str(run), str(reported / "run")) == before


@pytest.mark.slow
def test_a_map_shows_test_images_and_what_is_nearest_to_mistakes(reported, jaxtl, tmp_path):
    run = shutil.copytree(reported / "run", tmp_path / "run")
    with np.load(run / "predictions.npz") as arrays:
        kept = dict(arrays)
    kept["test_logits"] = kept["test_logits"][:, [1, 2, 0]]  # Then nearly all are mistakes.
    np.savez(run / "predictions.npz", **kept)
    status, _, err = jaxtl("report", f"--workdir={run}", "--map", "--explain")
    assert (status, err) == (0, "")
    page = (run / "report" / "index.html").read_text()
    mistakes = int((kept["test_logits"].argmax(1) != kept["test_labels"]).sum())
    assert len(re.findall(r'alt="What speaks for \w+ in test/', page.split('id="uncertain"')[0])) == mistakes > 5
    assert page.count("<title>test/") == 2 * 18
    assert "Training image train/" in page
    # As the head reads it: equal to the model without its head.
    model, variables, _ = build_run(run)
    mapped = map_images(run, {"test": reporting._open_run(run)["test"]})["test"]
    stop = model.module.groups()[-2][0]
    batch = np.stack([eval_view(decode(mapped.dataset.read(i)), model.pixels) for i in range(18)])
    tokens = model.module.apply(variables, normalize(batch, model.pixels), train=False, stop=stop)
    head = variables["params"]["head"]
    logits = np.asarray(mapped.features @ head["kernel"] + head["bias"])
    whole = model.module.apply(variables, tokens, train=False, start="head")
    np.testing.assert_allclose(logits, whole, atol=1e-4)


def test_a_map_wants_a_run(reported, jaxtl, tmp_path):
    run = shutil.copytree(reported / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    status, _, err = jaxtl("report", f"--workdir={run}", "--map")
    assert status == 1
    assert "holds no run, and this needs its best checkpoint: map" in err


def test_the_command_on_the_page_repeats_the_run(reported):
    command = re.search(r"--config=(\S+config.json)", (reported / "run" / "report" / "report.md").read_text())[1]
    config = config_lib.load(command, {})
    assert config_lib.to_dict(config) == json.loads((reported / "run" / "config.json").read_text())


def test_a_run_that_has_not_finished(reported, jaxtl, tmp_path):
    run = shutil.copytree(reported / "run", tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    (run / "results.json").unlink()
    (run / "predictions.npz").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    assert jaxtl("report", f"--workdir={run}")[0] == 0
    page = (run / "report" / "index.html").read_text()
    assert "<strong>This run has not finished</strong>" in page
    assert "stopped at step " in page  # No process trains there.
    assert "still training" not in page


@pytest.mark.slow
def test_where_the_images_are_gone_the_page_says_so(reported, jaxtl, tmp_path):
    run = shutil.copytree(reported / "run", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = f"folder:{tmp_path / 'gone'}"
    (run / "config.json").write_text(json.dumps(config))
    assert jaxtl("report", f"--workdir={run}")[0] == 0
    page = (run / "report" / "index.html").read_text()
    assert "There are no pictures, since the images cannot be opened" in page
    assert "data:image/jpeg" not in page


@pytest.mark.slow
def test_other_images_of_the_same_names_are_not_shown_as_if_they_were_these(reported, jaxtl, pictures, tmp_path):
    run = shutil.copytree(reported / "run", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = f"folder:{pictures}"
    (run / "config.json").write_text(json.dumps(config))
    (pictures / "test" / "red" / "100.png").unlink()
    assert jaxtl("report", f"--workdir={run}")[0] == 0
    page = (run / "report" / "index.html").read_text()
    assert "There are no pictures of some images, since the data have changed" in page


@pytest.mark.slow
def test_data_that_have_changed_are_not_explained_as_if_they_were_these(reported, jaxtl, pictures, tmp_path):
    run = shutil.copytree(reported / "run", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = f"folder:{pictures}"
    (run / "config.json").write_text(json.dumps(config))
    (pictures / "test" / "blue" / "100.png").rename(pictures / "test" / "green" / "099.png")
    status, _, err = jaxtl("report", f"--workdir={run}", "--explain", "--map")
    assert (status, err) == (0, "")
    page = (run / "report" / "index.html").read_text()
    assert "What speaks for" not in page
    assert "Training image" not in page


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_gone_is_still_a_run(reported, jaxtl, tmp_path):
    run = shutil.copytree(reported / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "report"))
    assert jaxtl("report", f"--workdir={run}")[0] == 0
    assert (run / "report" / "index.html").read_text().count("data:image/jpeg") >= 12


@pytest.mark.slow
def test_a_fault_of_the_page_does_not_end_a_finished_run(jaxtl, train, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("no such colour")

    monkeypatch.setattr(reporting, "run_page", fail)
    status, out, _ = train("--config.eval.report=true", "--config.train.steps=2")
    assert status == 0
    assert "not written, for a fault of jaxtl: ValueError: no such colour" in out
    assert "results   " in out


def test_names_that_are_not_utf8_are_written_all_the_same(reported, jaxtl, tmp_path):
    run = shutil.copytree(reported / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    with np.load(run / "predictions.npz") as arrays:
        kept = dict(arrays)
    kept["test_names"] = np.array([f"caf\udce9/{i}.png" for i in range(18)])
    np.savez(run / "predictions.npz", **kept)
    assert jaxtl("report", f"--workdir={run}")[0] == 0
    assert re.search(r"caf\\udce9/\d+\.png", (run / "report" / "index.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_eval_writes_a_page_of_other_data(reported, jaxtl, pictures, tmp_path):
    shutil.rmtree(pictures / "test" / "green")  # A class without a test image.
    flags = (f"--config.model.weights=run:{reported / 'run'}", f"--config.data.source=folder:{pictures}")
    status, _, err = jaxtl("eval", f"--workdir={tmp_path / 'eval'}", "--config.eval.report=true", *flags)
    assert not err
    assert status == 0
    page = tmp_path / "eval" / "report" / "index.html"
    first = page.read_text()
    assert "of 12 images of test right" in first
    assert first.count("data:image/jpeg") >= 12
    page.unlink()
    assert jaxtl("report", f"--workdir={tmp_path / 'eval'}")[0] == 0
    assert page.read_text() == first


def test_no_run_no_page(jaxtl, tmp_path):
    status, _, err = jaxtl("report", f"--workdir={tmp_path}")
    assert (status, err) == (
        1,
        f"error: --workdir={tmp_path} holds no run: give the folder of one that has begun to train.\n",
    )


def test_predictions_that_were_cut_off_are_told(reported, jaxtl, tmp_path):
    run = shutil.copytree(reported / "run", tmp_path / "run")
    whole = (run / "predictions.npz").read_bytes()
    (run / "predictions.npz").write_bytes(whole[: len(whole) // 2])
    status, _, err = jaxtl("report", f"--workdir={run}")
    assert status == 1
    assert "predictions.npz cannot be read" in err


@pytest.mark.slow
def test_a_page_that_cannot_be_written_takes_nothing_from_the_run(reported, jaxtl, train, tmp_path):
    (tmp_path / "run" / "report").mkdir(parents=True)
    (tmp_path / "run" / "report" / "report.md.tmp").mkdir()
    out = train("--config.eval.report=true", "--config.train.steps=2", workdir="run")
    assert "the report was not written" in str(out)
    assert (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "is no JSON"), ("[1]", "is no config"), ('{"model": {"nam": 1}}', "unknown key"), (None, "cannot be read")],
)
def test_a_config_json_that_is_none(jaxtl, tmp_path, content, said):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    status, _, err = jaxtl("train", f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert status == 1
    assert said in err
