import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.evaluate.predictions import as_arrays, as_half, read_predictions


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e3, 1e6])
def test_the_predicted_class_stays_and_logits_move_by_a_rounding(scale):
    rng = np.random.default_rng(0)
    # Many are closer together than float16 can tell, and some equal.
    logits = np.float32(scale * (1 + np.round(rng.uniform(size=(500, 6)), 4) * 1e-2))
    half = as_half(logits)
    assert half.dtype == np.float16
    assert np.isfinite(half).all()
    np.testing.assert_array_equal(half.argmax(1), logits.argmax(1))
    limited = np.clip(logits, -65472, 65472)
    assert (np.abs(half.astype(np.float32) - limited) <= 2 * np.spacing(np.abs(half)).astype(np.float32)).all()


def test_what_a_half_can_say_stays_as_it_is():
    logits = np.float32([[0.5, -2, 0.5], [-7, 1024, 0], [1e9, -1e9, 3e38]])
    assert as_half(logits)[:2].tolist() == logits[:2].tolist()
    assert as_half(-logits)[2].tolist() == [-65472.0, 65472.0, -65472.0]
    assert as_half(logits)[2].argmax() == 2


def test_arrays_of_a_split():
    found = as_arrays("val", ("a/é.png", "b.png"), np.array([1, 0]), np.float32([[0, 1], [2, 0]]))
    assert {key: (array.dtype.kind, array.tolist()) for key, array in found.items()} == {
        "val_names": ("U", ["a/é.png", "b.png"]),
        "val_labels": ("i", [1, 0]),
        "val_logits": ("f", [[0, 1], [2, 0]]),
    }


def test_what_is_kept_is_read_again(tmp_path):
    logits = np.float32([[1, 2], [3, -4], [0.5, 0.25]])
    kept = as_arrays("val", ["a", "b", "c"], np.array([1, 0, 0]), logits)
    np.savez(tmp_path / "predictions.npz", classes=np.array(["cat", "dog"]), **kept)
    classes, splits = read_predictions(tmp_path / "predictions.npz")
    assert (classes, list(splits)) == (("cat", "dog"), ["val"])
    assert splits["val"].names.tolist() == ["a", "b", "c"]
    assert splits["val"].labels.tolist() == [1, 0, 0]
    assert splits["val"].logits.tolist() == logits.tolist()


def test_a_file_that_is_none_of_predictions(tmp_path):
    path = tmp_path / "predictions.npz"
    with pytest.raises(UserError, match="a run writes it at its end"):
        read_predictions(path)
    path.write_bytes(b"PK no archive")
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(path)
    np.savez(path, val_logits=np.zeros((1, 2)))
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(path)
    kept = as_arrays("val", ["a"], np.array([2]), np.zeros((1, 2), np.float32))
    np.savez(path, classes=np.array(["cat", "dog"]), **kept)
    with pytest.raises(UserError, match="is damaged: the logits, labels and classes of val do not fit"):
        read_predictions(path)


def test_several_labels_keep_the_sign_of_each_logit(tmp_path):
    labels, logits = np.uint8([[1, 0], [1, 1]]), np.float32([[-1e-9, 1e-9], [1e9, -1e9]])
    kept = as_arrays("test", ["a", "b"], labels, logits)
    np.savez(tmp_path / "p.npz", classes=np.array(["cat", "dog"]), **kept)
    classes, found = read_predictions(tmp_path / "p.npz")
    assert classes == ("cat", "dog")
    assert found["test"].several
    assert found["test"].labels.tolist() == labels.tolist()
    assert ((found["test"].logits >= 0) == (logits >= 0)).all()
    for wrong in ({"test_labels": np.uint8([[1, 0]])}, {"test_labels": np.uint8([[2, 0], [1, 1]])}):
        np.savez(tmp_path / "p.npz", classes=np.array(["cat", "dog"]), **{**kept, **wrong})
        with pytest.raises(UserError, match="is damaged"):
            read_predictions(tmp_path / "p.npz")
