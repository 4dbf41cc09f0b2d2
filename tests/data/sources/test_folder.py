import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxtl.data.formats import formats
from jaxtl.data.sources.folder import read_folder
from jaxtl.errors import UserError


def image_bytes(format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, format)
    return file.getvalue()


def fill(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(image_bytes())
    return root


def test_splits_and_classes(tmp_path):
    fill(tmp_path, "train/rose/b.png", "train/rose/a.png", "train/daisy/a.png", "test/daisy/z.png", "val/rose/q.png")
    splits = read_folder(str(tmp_path))
    assert list(splits) == ["train", "validation", "test"]
    train = splits["train"]
    assert train.classes == ("daisy", "rose")
    assert train.names == ("train/daisy/a.png", "train/rose/a.png", "train/rose/b.png")
    assert train.labels.tolist() == [0, 1, 1]
    assert train.labels.dtype == np.int32
    assert splits["validation"].names == ("val/rose/q.png",)
    assert splits["validation"].labels.tolist() == [1]
    assert train.read(2) == image_bytes()


def test_a_class_keeps_its_label_where_a_split_lacks_others(tmp_path):
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "test/c/1.png")
    assert read_folder(str(tmp_path))["test"].labels.tolist() == [2]


def test_without_splits(tmp_path):
    fill(tmp_path, "cat/1.png", "dog/1.png", "dog/2.png")
    splits = read_folder(str(tmp_path))
    assert list(splits) == ["all"]
    assert splits["all"].names == ("cat/1.png", "dog/1.png", "dog/2.png")


def test_train_may_be_a_class(tmp_path):
    fill(tmp_path, "train/1.png", "plane/1.png")
    assert read_folder(str(tmp_path))["all"].classes == ("plane", "train")


@pytest.mark.parametrize("spelling", ["val", "valid", "validation", "Validation", "dev"])
def test_spellings_of_validation(tmp_path, spelling):
    fill(tmp_path, "train/a/1.png", "train/b/1.png", f"{spelling}/a/2.png", f"{spelling}/b/2.png")
    assert list(read_folder(str(tmp_path))) == ["train", "validation"]


def test_what_counts_as_an_image(tmp_path):
    fill(tmp_path, "a/1.png", "b/upper.JPG", "b/no_extension", "b/strange.xyz", "b/2.webp", "b/3.tif")
    # What systems leave behind is no data, and neither are files beside the class folders.
    for dropping in ("a/.DS_Store", "a/Thumbs.db", "b/desktop.ini", "README.md", ".hidden/x", "__MACOSX/a/1.png"):
        (tmp_path / dropping).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / dropping).write_text("no image")
    assert len(read_folder(str(tmp_path))["all"]) == 6


def test_other_files_in_class_folders_are_named_by_kind(tmp_path):
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png")
    for other in ("train/a/notes.txt", "train/b/photo.heic", "test/a/labels.csv", "labels.csv"):
        (tmp_path / other).write_text("no image")
    fill(tmp_path, "stray.png")
    notes: list[str] = []
    assert [len(split) for split in read_folder(str(tmp_path), notes).values()] == [2, 1]
    if "HEIF" not in formats():
        assert notes == [
            f"files of {tmp_path} that are not used: 1 .png (stray.png); 1 .txt (train/a/notes.txt); 1 HEIC "
            "(train/b/photo.heic): pip install 'jaxtl[heif]'; 1 .csv (test/a/labels.csv)"
        ]
        (tmp_path / "train/b/1.png").unlink()
        assert "b holds no images that are read, but 1 HEIC (photo.heic): pip install" in refusal(tmp_path)


def test_links_count_as_what_they_point_at(tmp_path):
    real = fill(tmp_path / "real", "a/1.png", "b/1.png")
    linked = tmp_path / "linked"
    (linked / "y").mkdir(parents=True)
    (linked / "x").symlink_to(real / "a")
    (linked / "y/photo.png").symlink_to(real / "b/1.png")
    assert read_folder(str(linked))["all"].names == ("x/1.png", "y/photo.png")


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as error:
        read_folder(str(root))
    return str(error.value)


def test_missing_and_empty_folders(tmp_path):
    assert "does not exist; expected DIR/<split>/<class>/<image>" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in refusal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refusal(tmp_path / "empty")
    assert "holds 2 files but no class folders" in refusal(fill(tmp_path / "flat", "1.png", "2.png"))
    assert "the split folders test, train" in refusal(fill(tmp_path / "unlabelled", "train/1.png", "test/1.png"))


def test_all_problems_at_once(tmp_path):
    fill(tmp_path, "train/a/1.png", "train/b/deeper/1.png", "train/loose.png", "extra/a/1.png", "val/a/1.png")
    fill(tmp_path, "valid/a/1.png")
    (tmp_path / "train/c").mkdir()
    (tmp_path / "train/a/notes.txt").write_text("hello")
    (tmp_path / "train/a/gone.png").symlink_to(tmp_path / "nowhere.png")
    text = refusal(tmp_path)
    for problem in (
        "also extra; rename",
        "holds both val and valid",
        f"1 images lie outside a class folder in {tmp_path}/train: loose.png",
        "train/b holds folders: deeper",
        "class folder " + str(tmp_path / "train/b") + " holds no images",
        "class folder " + str(tmp_path / "train/c") + " holds no images",
        "1 links in " + str(tmp_path / "train/a") + " lead nowhere: gone.png",
    ):
        assert problem in text
    assert len(text.splitlines()) == 7


def test_a_file_that_goes_away_is_named(tmp_path):
    dataset = read_folder(str(fill(tmp_path, "a/1.png", "b/1.png")))["all"]
    (tmp_path / "b/1.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*b/1.png: No such file"):
        dataset.read(1)


def test_oxford_flowers12(shared):
    splits = read_folder(str(shared / "datasets/oxford_flowers12"))
    assert {name: len(dataset) for name, dataset in splits.items()} == {"train": 720, "test": 240}
    assert np.bincount(splits["train"].labels).tolist() == [60] * 12
    assert np.bincount(splits["test"].labels).tolist() == [20] * 12
    assert splits["train"].classes[:3] == ("bluebell", "buttercup", "colts-foot")
