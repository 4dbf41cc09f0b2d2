import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from jaxtl import models, pretrained
from jaxtl.checkpoints.manager import read_best


@pytest.fixture
def run(plain, tmp_path):
    return shutil.copytree(plain / "run", tmp_path / "run")


def predictions(result):
    return [json.loads(line) for line in result[1].splitlines()]


def test_one_line_an_image_with_the_pixels_of_the_run(jaxtl, run, pictures):
    result = jaxtl("predict", f"--workdir={run}", "--batch_size=4", pictures / "test")
    assert result[0] == 0
    lines = predictions(result)
    files = sorted(str(path) for path in (pictures / "test").rglob("*.png"))
    assert [line["file"] for line in lines] == files

    # By hand: Pillow, the numbers of the config, the model, softmax.
    _, variables = read_best(run)
    model = models.build("vit_petals:depth=2,width=16,heads=2,patch=8", num_classes=3, image_size=16)
    image = Image.open(files[0]).resize((19, 16), Image.Resampling.BICUBIC).crop((2, 0, 18, 16))
    x = (np.asarray(image) / 255 - np.array([0.3, 0.4, 0.5])) / 0.2
    expected = np.asarray(
        jax.jit(lambda x: jax.nn.softmax(model.apply(variables, x)))(jnp.asarray(x[None], jnp.float32))
    )[0]
    first = lines[0]
    assert first["class"] == ("blue", "green", "red")[int(expected.argmax())]
    assert first["probability"] == pytest.approx(float(expected.max()), abs=1e-5)
    assert [entry["class"] for entry in first["top5"]] == [("blue", "green", "red")[i] for i in np.argsort(-expected)]
    assert sum(entry["probability"] for entry in first["top5"]) == pytest.approx(1, abs=1e-5)


def test_an_unreadable_file_gives_an_error_line_and_the_others_are_predicted(jaxtl, run, pictures, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    good = pictures / "test" / "red" / "100.png"
    status, out, err = jaxtl("predict", f"--workdir={run}", good, tmp_path / "bad.jpg", tmp_path / "absent.png", good)
    lines = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (1, "")
    assert ["error" in line for line in lines] == [False, True, True, False]
    assert lines[0] == lines[3]
    assert lines[1]["error"] == "the file is no image that Pillow reads: it begins with 'no picture'"
    assert lines[2] == {"file": str(tmp_path / "absent.png"), "error": "No such file or directory"}


@pytest.mark.slow
def test_a_run_with_a_loss_of_yes_and_no_evaluates_and_predicts_so(train, jaxtl, pictures, config_file, tmp_path):
    train("--config.train.loss=binary", "--config.train.steps=4", "--config.train.label_smoothing=0.1")
    run, image = tmp_path / "run", pictures / "test" / "red" / "100.png"
    _, variables = read_best(run)
    model = models.build("vit_petals:depth=2,width=16,heads=2,patch=8", num_classes=3, image_size=16)
    x = np.asarray(Image.open(image).resize((19, 16), Image.Resampling.BICUBIC).crop((2, 0, 18, 16))) / 127.5 - 1
    expected = jax.nn.sigmoid(jax.jit(model.apply)(variables, jnp.asarray(x[None], jnp.float32)))[0]
    (line,) = predictions(jaxtl("predict", f"--workdir={run}", image))
    found = {entry["class"]: entry["probability"] for entry in line["top5"]}
    assert [found[name] for name in ("blue", "green", "red")] == pytest.approx(expected.tolist(), abs=1e-5)

    results = json.loads((run / "results.json").read_text())
    assert results["loss"] == "binary"
    # Of three nearly undecided classes: three times log 2, not log 3.
    assert 1.3 < results["test"]["loss"] < 2.6
    # The config that evaluates says "softmax", but the run was trained otherwise.
    flags = (f"--config={config_file}", f"--config.model.weights=run:{run}", f"--config.data.source=folder:{pictures}")
    jaxtl("eval", *flags, f"--workdir={tmp_path / 'eval'}")
    again = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert (again["loss"], again["test"]) == ("binary", results["test"])


def test_a_name_that_is_no_utf8_is_a_line_like_others(jaxtl, run, pictures, tmp_path):
    photo = pictures / "test" / "red" / "100.png"
    names = [os.fsdecode(b"caf\xe9.png"), "\u82b1.png"]
    for name in names:
        shutil.copy(photo, tmp_path / name)
    found = subprocess.run(
        [sys.executable, "-m", "jaxtl.main", "predict", f"--workdir={run}", *(tmp_path / name for name in names)],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=True,
    )
    lines = found.stdout.decode().splitlines()
    assert [json.loads(line)["file"] for line in lines] == [str(tmp_path / name) for name in names]
    assert "\u82b1.png" in lines[1]  # For people to read.


def test_an_address_is_asked_as_it_is(jaxtl, pictures):
    address = "http://127.0.0.1:9/mine.safetensors"
    status, out, err = jaxtl("predict", f"--workdir={address}", pictures / "test" / "red" / "100.png")
    assert (status, out) == (1, "")
    assert address in err


def test_files_of_a_folder_that_are_no_images_are_named(jaxtl, run, pictures, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(pictures / "test" / "red" / "100.png", folder)
    for name in ("notes.txt", "a.csv", "b.csv"):
        (folder / name).write_text("none")
    status, out, err = jaxtl("predict", f"--workdir={run}", folder, "gs://bucket/a.png")
    assert status == 1
    good, refused = predictions((status, out))
    assert good["file"] == str(folder / "100.png")
    assert refused["error"].startswith("only http:// and https:// addresses are fetched")
    assert err == (
        f"not taken, since no images: 2 .csv ({folder}/a.csv, {folder}/b.csv); 1 .txt ({folder}/notes.txt)\n"
    )


def test_a_folder_without_images(jaxtl, run, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("none")
    status, _, err = jaxtl("predict", f"--workdir={run}", tmp_path / "none")
    assert status == 1
    assert "there is no image file in" in err
    assert "1 .txt" in err


def test_eval_of_a_run_gives_the_test_figures_of_its_results(jaxtl, run, tmp_path):
    flags = (f"--config.model.weights=run:{run}",)  # The run knows its config, and the data in it.
    status, out, err = jaxtl("eval", *flags, f"--workdir={tmp_path / 'eval'}")
    assert (status, err) == (0, "")
    assert "evaluates test" in out
    ours = json.loads((tmp_path / "eval" / "results.json").read_text())
    theirs = json.loads((run / "results.json").read_text())
    assert ours["test"] == theirs["test"]
    status, _, err = jaxtl("eval", *flags, f"--workdir={run}")
    assert status == 1
    assert f"To eval that run, give: {flags[0]} --workdir={run}_eval" not in err
    assert f"To eval that run, give: --workdir={run}_eval" in err
    status, _, err = jaxtl("eval", f"--workdir={tmp_path / 'eval'}")
    assert status == 1
    assert "there are no data: give a recipe or a config" in err


def test_eval_measures_a_source_without_splits_as_a_whole(jaxtl, run, pictures, config_file, tmp_path):
    # Two of the three classes, named by the class names of the run: the labels go by name.
    rows = ["image,label"] + [f"test/{name}/100.png,{name}" for name in ("red", "blue")]
    (pictures / "labels.csv").write_text("\n".join(rows))
    flags = (f"--config={config_file}", f"--config.model.weights=run:{run}")
    status, _, err = jaxtl(
        "eval", *flags, f"--config.data.source=csv:{pictures / 'labels.csv'}", f"--workdir={tmp_path / 'eval'}"
    )
    assert (status, err) == (0, "")
    test = json.loads((tmp_path / "eval" / "results.json").read_text())["test"]
    assert test["count"] == 2
    assert {name: values["count"] for name, values in test["per_class"].items()} == {"blue": 1, "green": 0, "red": 1}


@pytest.mark.slow
def test_what_is_taken_of_a_run_that_is_not_finished_is_said(jaxtl, run, pictures, config_file, tmp_path):
    (run / "results.json").unlink()
    step, _ = read_best(run)
    note = (
        f"note: the run in {run} is not finished (it has no results.json); its best checkpoint so far is taken, "
        f"step {step}\n"
    )
    flags = (f"--config={config_file}", f"--config.data.source=folder:{pictures}")
    for command in (
        ("export", f"--workdir={run}", f"--output={tmp_path / 'a.safetensors'}"),
        ("predict", f"--workdir={run}", pictures / "test" / "red" / "100.png"),
        ("eval", *flags, f"--config.model.weights=run:{run}", f"--workdir={tmp_path / 'eval'}"),
    ):
        status, _, err = jaxtl(*command)
        assert (status, err) == (0, note)


def test_export_holds_the_best_checkpoint_and_opens_as_weights(jaxtl, run, tmp_path):
    output = tmp_path / "out" / "model.safetensors"
    status, out, _ = jaxtl("export", f"--workdir={run}", f"--output={output}")
    assert status == 0
    assert "3 classes" in out
    step, variables = read_best(run)
    assert f"step {step}" in out
    with safe_open(output, "np") as file:
        np.testing.assert_array_equal(file.get_tensor("params/head/kernel"), variables["params"]["head"]["kernel"])
    opened = pretrained.open_weights(str(output))
    assert opened.classes == ("blue", "green", "red")
    assert opened.pixels.mean == (0.3, 0.4, 0.5)
    status, _, err = jaxtl("export", f"--workdir={run}", "--output=model.bin")
    assert status == 1
    assert ".safetensors" in err


def test_describe_needs_neither_data_nor_compiling(jaxtl, config_file, monkeypatch):
    def refuse(*_):
        raise AssertionError("describe compiled something")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    status, out, err = jaxtl(
        "describe",
        f"--config={config_file}",
        "--config.data.source=folder:nowhere",
        "--config.finetune.unfreeze=1",
        "--config.finetune.layer_decay=0.5",
    )
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines()}
    # patch_embed 8*8*3*16 + 16, cls 16, positions 5*16
    assert rows["embed"][:3] == ["embed", "3,184", "frozen"]
    assert rows["block0"][2] == "frozen"
    assert rows["block1"][3] == "0.005"
    assert rows["head"][3] == "0.01"


def test_describe_gives_the_load_report_without_data(jaxtl, run, config_file, tmp_path):
    config = (f"--config={config_file}", "--config.data.source=folder:nowhere", "--config.model.mean=0.3,0.4,0.5")
    arguments = (*config, f"--config.model.weights=run:{run}")
    status, out, err = jaxtl("describe", *arguments)
    assert (status, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines()[:8])
    assert rows["classes"] == "3, blue ... red"
    assert rows["head"] == "kept: 3 classes"
    assert rows["loaded"] == "32 leaves, 0 of them renamed"
    status, out, err = jaxtl("describe", *arguments, "--config.model.head=new")
    assert (status, err) == (0, "")
    assert "\nhead          new: as asked\n" in out
    assert "\ninitialised   params/head/bias [3], params/head/kernel [16, 3]\n" in out
    status, _, err = jaxtl("describe", *arguments, "--config.model.name=resnet18:stages=1-1,width=8")
    assert status == 1
    assert "holds weights of vit_petals" in err
    status, _, err = jaxtl("describe", *config, "--config.model.name=auto", "--config.model.weights=nowhere")
    assert status == 1
    assert "no weight file 'nowhere'" in err


@pytest.mark.slow
def test_describe_and_train_decide_alike_about_a_head_of_as_many_other_classes(
    train, jaxtl, run, config_file, pictures
):
    for split in ("train", "test"):
        for name in ("red", "green", "blue"):
            (pictures / split / name).rename(pictures / split / f"light {name}")
    flags = (f"--config.model.weights=run:{run}", f"--config.data.source=folder:{pictures}", "--config.train.steps=8")
    _, described, err = jaxtl("describe", f"--config={config_file}", *flags)
    assert err == ""
    status, trained, err = train(*flags, workdir="other")
    assert (status, err) == (0, "")
    head = "new: the class names differ ('light blue' is none of 'blue', 'green', 'red')"
    assert f"head          {head}" in described.splitlines()
    assert f"head      {head}" in trained.splitlines()
