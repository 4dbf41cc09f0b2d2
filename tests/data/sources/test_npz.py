from pathlib import Path

import numpy as np
import pytest

from jaxtl.data.sources.npz import read_npz
from jaxtl.errors import UserError


def write(root: Path, **arrays: np.ndarray) -> str:
    np.savez(root / "set.npz", **arrays)
    return str(root / "set.npz")


def images(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, size=(count, *shape), dtype=np.uint8)


def refusal(path: str) -> str:
    with pytest.raises(UserError) as error:
        read_npz(path)
    return str(error.value)


def test_keras_layout(tmp_path):
    x, y = images(6, 8, 8, 3), np.array([0, 1, 2, 0, 1, 2])
    splits = read_npz(write(tmp_path, x_train=x, y_train=y[:, None], x_test=x[:2], y_test=y[:2].astype(np.uint8)))
    assert list(splits) == ["train", "test"]
    assert splits["train"].classes == ("0", "1", "2")
    assert splits["train"].labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert splits["train"].labels.dtype == np.int32
    assert splits["train"].names[4] == "train/4"
    np.testing.assert_array_equal(splits["train"].read(4), x[4])


def test_grey_images_val_and_names(tmp_path):
    x, y = images(3, 5, 5), np.array([0, 1, 1])
    splits = read_npz(
        write(tmp_path, x_train=x, y_train=y, x_val=x[..., None], y_val=y, label_names=["no", "yes", "maybe"])
    )
    assert list(splits) == ["train", "validation"]
    assert splits["train"].classes == ("no", "yes", "maybe")
    assert splits["train"].read(0).shape == (5, 5)
    assert splits["validation"].read(0).shape == (5, 5, 1)


def test_refusals(tmp_path):
    x, y = images(4, 8, 8, 3), np.arange(4)
    assert "does not exist" in refusal(str(tmp_path / "no.npz"))
    assert "holds pictures; expected x_train" in refusal(write(tmp_path, pictures=x))
    assert "y_train is missing" in refusal(write(tmp_path, x_train=x))
    assert "x_train is float32 [4, 8, 8, 3]; expected uint8" in refusal(
        write(tmp_path, x_train=x.astype(np.float32), y_train=y)
    )
    assert "x_train is uint8 [4, 3, 8, 8]" in refusal(write(tmp_path, x_train=images(4, 3, 8, 8), y_train=y))
    assert "y_train is float64 [4]" in refusal(write(tmp_path, x_train=x, y_train=y / 1.0))
    assert "y_train is int64 [4, 4]; expected integers [N]" in refusal(
        write(tmp_path, x_train=x, y_train=np.eye(4, dtype=np.int64))
    )
    assert "holds 4 images and y_train 3 labels" in refusal(write(tmp_path, x_train=x, y_train=y[:3]))
    assert "y_train holds labels from -1 to 2" in refusal(write(tmp_path, x_train=x, y_train=y - 1))
    assert "from 0 to 18446744073709551615" in refusal(
        write(tmp_path, x_train=x, y_train=np.array([0, 1, 2, 2**64 - 1], np.uint64))
    )
    assert "x_train holds no images" in refusal(write(tmp_path, x_train=x[:0], y_train=y[:0]))
    assert "label_names has 2 names but the labels reach 3" in refusal(
        write(tmp_path, x_train=x, y_train=y, label_names=["a", "b"])
    )


def test_problems_of_all_splits_come_together(tmp_path):
    x, y = images(4, 8, 8, 3), np.arange(4)
    text = refusal(write(tmp_path, x_train=x / 255, y_train=y, x_test=x, y_test=y[:2]))
    assert "x_train is float64" in text
    assert "x_test holds 4 images and y_test 2 labels" in text


def test_files_that_are_no_archives(tmp_path):
    for content in (b"", b"text", b"PK\x03\x04 broken"):
        (tmp_path / "set.npz").write_bytes(content)
        assert "cannot be read as an npz file" in refusal(str(tmp_path / "set.npz"))
    np.save(tmp_path / "plain.npy", np.zeros(3))
    assert "cannot be read as an npz file" in refusal(str(tmp_path / "plain.npy"))


def test_object_arrays_are_never_unpickled(tmp_path):
    path = write(tmp_path, x_train=np.array([b"x", None], dtype=object), y_train=np.arange(2))
    assert "cannot be read as an npz file of plain arrays" in refusal(path)


def test_cifar10_subset(shared):
    splits = read_npz(str(shared / "datasets/cifar10_subset/cifar10_subset.npz"))
    assert (len(splits["train"]), len(splits["test"])) == (5085, 1017)
    assert splits["test"].classes[0] == "airplane"
    assert splits["test"].labels[:3].tolist() == [3, 8, 8]
    assert splits["test"].read(0).shape == (32, 32, 3)
