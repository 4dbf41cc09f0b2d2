import pytest

import jaxtl
from jaxtl.deploy.export.provenance import Provenance, read_provenance, write_provenance
from jaxtl.errors import UserError

WEIGHTS = {"location": "hf:timm/vit", "revision": "abc", "license": "apache-2.0", "sha256": {"model.safetensors": "12"}}


def test_what_is_written_is_read_again(tmp_path):
    provenance = Provenance("mine", 12, "vit_ti16", "0f", "folder:photos", WEIGHTS, {"data.train": "ab"}, "onnx", True)
    provenance = provenance.noting(opset=23)
    write_provenance(tmp_path / "provenance.json", provenance)
    assert read_provenance((tmp_path / "provenance.json").read_text(), tmp_path) == provenance
    assert read_provenance(provenance.to_text(), tmp_path).notes == {"opset": 23}
    assert provenance.jaxtl == jaxtl.__version__


def test_a_person_reads_where_it_comes_from():
    assert Provenance("mine", 12, "vit_ti16", weights=WEIGHTS, calibrated=True, jaxtl="1").lines() == [
        "run       mine, step 12, calibrated, of jaxtl 1",
        "model     vit_ti16, begun from hf:timm/vit, licence apache-2.0",
    ]
    assert Provenance("mine", 12, "vit_ti16").lines()[1].endswith("begun from random numbers")
    unknown = Provenance("mine", 12, "vit_ti16", weights={"location": "a.pth", "license": ""})
    assert unknown.lines()[1].endswith("a.pth, licence not known")


def test_fields_of_later_versions_are_left_out_and_other_files_refused(tmp_path):
    assert read_provenance('{"run": "a", "step": 1, "model": "b", "later": 3}', tmp_path).run == "a"
    for text in ("no JSON", "[1]", '{"run": "a"}'):
        with pytest.raises(UserError, match="not as export writes it"):
            read_provenance(text, tmp_path)
