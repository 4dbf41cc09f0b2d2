"""An export is verified by what it carries, and what is wrong with it is said in a line."""

import numpy as np
import pytest
from programs import RESNET, program, request

from jaxtl.deploy.export.native import FORMAT
from jaxtl.deploy.export.notes import Notes, read_notes, write_notes
from jaxtl.deploy.export.verification import Reference, draw_views, write_reference
from jaxtl.deploy.export.verify import format_of, verify
from jaxtl.errors import UserError


@pytest.fixture(scope="module")
def resnet():
    return program(RESNET)


def test_notes_lie_in_a_folder_or_beside_a_file(tmp_path, resnet):
    notes = Notes(request(resnet, format="timm").provenance, resnet.reference())
    (tmp_path / "folder").mkdir()
    for place, names in (
        (tmp_path / "folder", ("folder/provenance.json", "folder/verification.npz")),
        (tmp_path / "file.pth", ("file.pth.provenance.json", "file.pth.verification.npz")),
    ):
        write_notes(place, notes)
        assert all((tmp_path / name).exists() for name in names)
        again = read_notes(place)
        assert again.provenance == notes.provenance
        np.testing.assert_array_equal(again.reference.logits, notes.reference.logits)
    assert format_of(tmp_path / "folder").name == "timm"


def test_a_file_is_verified_by_its_metadata_alone(tmp_path, resnet):
    FORMAT.save(tmp_path / "mine.safetensors", resnet, request(resnet, format="jaxtl"))
    notes, program_name, comparison = verify(tmp_path / "mine.safetensors")
    assert (notes.provenance.run, program_name) == ("mine", "jaxtl, which opened it again")
    assert comparison.passes
    assert comparison.images == 4


@pytest.mark.parametrize("spoil", ["weights", "json", "format"])
def test_what_carries_something_else_is_refused(tmp_path, resnet, spoil):
    (tmp_path / "mine").mkdir()
    name = "of tomorrow" if spoil == "format" else "timm"
    write_notes(tmp_path / "mine", Notes(request(resnet, format=name).provenance, resnet.reference()))
    if spoil == "json":
        (tmp_path / "mine" / "provenance.json").write_text("{")
    said = {"json": "not as export writes it", "format": "does not know", "weights": "belong to no model family"}
    with pytest.raises(UserError, match=said[spoil]):
        verify(tmp_path / "mine")


def test_images_that_it_cannot_run_on_are_an_error_of_one_line(tmp_path, resnet):
    pytest.importorskip("flatbuffers")
    from jaxtl.deploy.export.bundle import save_bundle

    save_bundle(tmp_path / "mine", resnet, request(resnet, format="bundle"))
    write_reference(tmp_path / "mine" / "verification.npz", Reference(draw_views(16), np.zeros((4, 5), np.float32)))
    with pytest.raises(UserError, match="mine cannot be run on the images that it carries: "):
        verify(tmp_path / "mine")
    (tmp_path / "mine" / "program.jax").write_bytes(b"no program")
    with pytest.raises(UserError, match="cannot be run"):
        verify(tmp_path / "mine")
