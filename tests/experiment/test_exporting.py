"""What an export says of its run, and the images that it is verified on."""

import hashlib
import json

import numpy as np
import pytest

from jaxtl.deploy.export import formats
from jaxtl.errors import UserError
from jaxtl.experiment.exporting import Options, export_run, provenance_of
from jaxtl.experiment.model import Model
from jaxtl.preprocessing import Pixels

PIXELS = Pixels(8, 8, (0.5,) * 3, (0.5,) * 3, "bilinear")


def write(workdir, source="folder:/home/me/secret/pets", **report):
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps({"data": {"source": source}}))
    (workdir / "inputs.json").write_text(json.dumps({"data.train": "aa", "data.val": "bb", "fitted": "{}"}))
    if report:
        (workdir / "weights.json").write_text(json.dumps(report))
    return provenance_of(workdir, Model("vit_ti16", None, ("a", "b"), PIXELS, 1e-6), 7)


def test_it_says_where_an_export_comes_from_and_names_no_place_of_this_machine(tmp_path):
    found = write(
        tmp_path / "pets_run",
        location="/home/me/secret/deit.safetensors",
        revision="",
        license="apache-2.0",
        sha256={"/home/me/secret/deit.safetensors": "cc"},
    )
    assert (found.run, found.step, found.model, found.data) == ("pets_run", 7, "vit_ti16", "folder:pets")
    assert found.config_sha256 == hashlib.sha256((tmp_path / "pets_run/config.json").read_bytes()).hexdigest()
    assert found.weights == {
        "location": "deit.safetensors",
        "revision": "",
        "license": "apache-2.0",
        "sha256": {"deit.safetensors": "cc"},
    }
    assert found.inputs == {"train": "aa", "val": "bb"}
    assert found.notes == {"pixels": PIXELS.to_json(), "epsilon": 1e-6}
    for private in ("/home", "secret", str(tmp_path)):
        assert private not in found.to_text()


@pytest.mark.parametrize(
    ("location", "public"),
    [
        ("hf:timm/vit@main", "hf:timm/vit@main"),
        ("run:/home/me/runs/first", "run:first"),
        ("average by uniform of /home/me/a, /home/you/b", "average by uniform of a, b"),
        ("https://me:secret@there.org/w.npz?signature=12", "https://there.org/w.npz"),
        ("gs://bucket/w.npz", "gs://bucket/w.npz"),
    ],
)
def test_weights_are_named_as_others_may_read_it(tmp_path, location, public):
    assert write(tmp_path / "run", location=location).weights["location"] == public


def test_a_start_at_random_has_no_weights(tmp_path):
    assert write(tmp_path / "run", source="tfds:beans").weights is None


def test_all_that_is_wrong_with_the_flags_is_said_at_once_and_nothing_is_read(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError) as raised:
        export_run(tmp_path / "none", tmp_path / "there", Options("hf", dtype="float16", with_pixels=True))
    lines = str(raised.value).splitlines()
    assert len(lines) == 4
    assert "model.json: give the --workdir of a run that has trained" in lines[0]
    assert "there is there already: --format=hf writes a new folder." in lines[1]
    assert lines[2] == "--dtype=float16, but --format=hf is written in float32."
    assert lines[3].startswith("--with-pixels is for --format=onnx, --format=tflite, --format=openvino")


def test_every_format_can_be_verified():
    assert all(each.run is not None for each in formats().values())


def test_images_of_val_and_drawn_ones_verify_a_run_whose_data_are_here(monkeypatch):
    import tiny

    from jaxtl.deploy.export.program import Program
    from jaxtl.experiment import exporting

    made = tiny.experiment(tiny.config())
    program = Program("tiny", made.model.module, made.variables, made.model.pixels, made.model.classes)
    monkeypatch.setattr(Program, "shape", (4, 4, 3))
    monkeypatch.setattr(exporting.files, "run_config", lambda workdir: made.config)
    monkeypatch.setattr(exporting.files, "began_earlier", lambda workdir: False)
    monkeypatch.setattr(exporting.data, "open_source", lambda source, data_dir: None)
    monkeypatch.setattr(exporting, "open_splits", lambda config, source, by_class: made.splits)
    views, words = exporting._views(None, program)
    assert (views.shape, views.dtype) == ((10, 4, 4, 3), np.uint8)
    assert words == "6 images of val and 4 drawn ones"
    np.testing.assert_array_equal(views[0], made.splits.val.read(0))

    def gone(source, data_dir):
        raise UserError("there is no such folder")

    monkeypatch.setattr(exporting.data, "open_source", gone)
    views, words = exporting._views(None, program)
    assert (len(views), words) == (
        4,
        "4 drawn images, since the run's own cannot be opened here: there is no such folder",
    )
