import hashlib

import numpy as np
import pytest

from jaxtl.deploy.export.verification import (
    Reference,
    compare,
    draw_views,
    read_reference,
    reference_from_text,
    reference_to_text,
    require_same,
    write_reference,
)
from jaxtl.errors import UserError


def test_differences_are_shares_of_the_largest_logit_but_at_least_of_one():
    found = compare(np.array([[0.0, 20.001], [3.0, 1.0]]), np.array([[0.0, 20.0], [3.0, 1.0]]))
    assert (found.images, found.scale, found.moved, found.passes) == (2, 20.0, 0, True)
    assert found.largest == pytest.approx(0.001)
    assert found.share == pytest.approx(0.00005)
    small = compare(np.array([[0.0, 0.001]]), np.array([[0.001, 0.0]]))
    assert (small.scale, small.moved, small.passes) == (1.0, 1, False)
    assert str(small) == (
        "on 1 images the largest difference of logits is 0.001, 0.001 of the largest (0.0001 is allowed); "
        "1 get another class"
    )


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, 7.0])
def test_what_differs_is_an_error_with_its_figures(spoilt):
    expected = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    assert require_same(expected + 1e-6, expected, program="it").passes
    found = expected.copy()
    found[1, 2] = spoilt
    with pytest.raises(UserError, match=r"^it computes otherwise than JAX: on 3 images .* Nothing was written\.$"):
        require_same(found, expected, program="it")
    if np.isfinite(spoilt):
        assert require_same(found, expected, program="it", tolerance=9.0).passes


def test_other_shapes_are_an_error():
    with pytest.raises(UserError, match=r"shape \[2, 3\], JAX \[2, 4\]"):
        compare(np.zeros((2, 3)), np.zeros((2, 4)))


def test_drawn_images_are_the_same_everywhere_and_differ_from_each_other():
    views = draw_views(24, channels=3, count=4)
    assert (views.shape, views.dtype) == ((4, 24, 24, 3), np.uint8)
    assert hashlib.sha256(views.tobytes()).hexdigest().startswith("3d2eba79cf8aedbb")
    assert len({view.tobytes() for view in views}) == 4
    np.testing.assert_array_equal(draw_views(24, count=2), views[:2])
    assert draw_views(8, channels=1).shape == (4, 8, 8, 1)
    assert (views.reshape(4, -1, 3).std(1) > 20).all()


def test_a_reference_survives_a_file_and_a_text(tmp_path):
    logits = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    reference = Reference(draw_views(16), logits, tolerance=0.02)
    write_reference(tmp_path / "model.pth.verification", reference)
    there = read_reference(tmp_path / "model.pth.verification")
    for back in (there, reference_from_text(reference_to_text(reference), tmp_path)):
        np.testing.assert_array_equal(back.views, reference.views)
        np.testing.assert_array_equal(back.logits, logits)
        assert back.tolerance == 0.02


def test_a_reference_that_is_broken_or_gone_is_an_error(tmp_path):
    with pytest.raises(UserError, match="there is no"):
        read_reference(tmp_path / "gone.npz")
    write_reference(tmp_path / "cut.npz", Reference(draw_views(16), np.zeros((4, 2), np.float32)))
    whole = (tmp_path / "cut.npz").read_bytes()
    for spoilt in (whole[: len(whole) // 2], b"", b"PK\3\4", b"no file of NumPy"):
        (tmp_path / "cut.npz").write_bytes(spoilt)
        with pytest.raises(UserError, match="cannot be read"):
            read_reference(tmp_path / "cut.npz")
    for text in ("!", "QUJD"):
        with pytest.raises(UserError, match=r"verify mine\.onnx with cannot be read"):
            reference_from_text(text, "mine.onnx")
