import io
import socket
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxtl.data.choosing import choose_splits
from jaxtl.data.preloading import attempt_all
from jaxtl.data.source import open_source
from jaxtl.data.sources import petals
from jaxtl.data.sources.tfds import prepare
from jaxtl.errors import UserError


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (9, 7), value).save(file, "JPEG")
    return file.getvalue()


class Shades(tfds.core.GeneratorBasedBuilder):
    """Grey pictures; example i of a split has label i % 3."""

    VERSION = tfds.core.Version("1.0.0")
    COUNTS = (("train", 50), ("test", 11))

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "file": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["dark", "grey", "light"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in self.COUNTS}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": jpeg(80 * (i % 3)), "file": f"{i}.jpg", "label": i % 3}


class Unlabelled(Shades):
    COUNTS = (("train", 6), ("test", 6))

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": jpeg(i), "file": "", "label": -1}


class Captions(Shades):
    def _info(self):
        features = {"image": tfds.features.Image(encoding_format="jpeg"), "file": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": jpeg(i), "file": str(i)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("tfds"))
    for builder in (Shades, Unlabelled, Captions):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("tried the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
def test_prepared_set(data_dir):
    source = open_source("tfds:shades", data_dir=data_dir)
    assert set(source.split_names) == {"train", "test"}
    assert source.classes == ("dark", "grey", "light")
    train = source.split("train")
    assert np.bincount(train.labels).tolist() == [17, 17, 16]
    assert train.names[3] == "train/3"
    for i in range(0, 50, 7):
        image = Image.open(io.BytesIO(train.read(i)))
        assert image.format == "JPEG"
        assert image.getpixel((0, 0)) == 80 * train.labels[i]


def test_slices_are_those_of_tfds(data_dir):
    source = open_source("tfds:shades", data_dir=data_dir)
    builder = tfds.core.read_only_builder.builder_from_files("shades", data_dir=data_dir)
    for spec in ("train[:50%]", "train[33%:]", "train[-5:]", "test+train[10:20]"):
        theirs = [record["label"] for record in builder.as_data_source(split=spec)]
        assert source.split(spec).labels.tolist() == theirs


def test_threads_read_what_one_reads(data_dir):
    train = open_source("tfds:shades", data_dir=data_dir).split("train")
    indices = np.random.default_rng(0).integers(0, 50, size=2000).tolist()
    assert attempt_all(indices, train.read, workers=8) == ({i: train.read(i) for i in indices}, {})


def test_version_in_the_name_and_derived_splits(data_dir):
    splits = choose_splits(open_source("tfds:shades:1.0.0", data_dir=data_dir))
    assert [len(splits.train), len(splits.val), len(splits.test)] == [45, 5, 11]
    assert splits.val.names == tuple(f"train/{i}" for i in range(45, 50))


@pytest.mark.usefixtures("no_network")
def test_not_prepared_is_said_at_once(data_dir):
    start = time.monotonic()
    with pytest.raises(UserError, match=r"'cifar10' is not prepared in .*\n.*jaxtl\[prepare\].*main prepare --config"):
        open_source("tfds:cifar10", data_dir=data_dir)
    with pytest.raises(UserError, match="TFDS knows no cifer10; the nearest is cifar10"):
        open_source("tfds:cifer10", data_dir=data_dir)
    assert time.monotonic() - start < 5


def test_sets_that_are_no_labelled_images(data_dir):
    with pytest.raises(
        UserError, match=r"must have one image and one class label; its features are file \(Text\), image"
    ):
        open_source("tfds:captions", data_dir=data_dir)
    source = open_source("tfds:unlabelled", data_dir=data_dir)
    with pytest.raises(UserError, match=r"split 'test' of unlabelled/1.0.0 has no labels"):
        source.split("test")


def test_other_file_formats_are_refused(data_dir, tmp_path, monkeypatch):
    Shades(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    info = next(tmp_path.glob("shades/*/dataset_info.json"))
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    source = open_source("tfds:shades", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="is prepared as tfrecord, which only TensorFlow reads; prepare it again"):
        source.split("train")


@pytest.mark.usefixtures("no_network")
def test_the_embedded_set_prepares_itself(tmp_path, monkeypatch, capfd):
    def few(self, split, count):
        for i in range(12):
            yield i, {"image": jpeg(i), "label": i}

    monkeypatch.setattr(petals.Petals, "_generate_examples", few)
    source = open_source("tfds:petals/transfer", data_dir=str(tmp_path))
    assert source.split_names == ("train", "validation", "test")
    assert len(source.split("train")) == 12
    assert capfd.readouterr().out == ""
    with pytest.raises(UserError, match="the embedded ones are petals/pretrain and petals/transfer"):
        open_source("tfds:petals/transfr", data_dir=str(tmp_path))


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"petals/transfer cannot be prepared in .*file"):
        open_source("tfds:petals/transfer", data_dir=str(tmp_path / "file"))


def test_preparing_needs_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"preparing cifar10 needs TensorFlow: pip install 'jaxtl\[prepare\]'"):
        prepare("cifar10", data_dir=str(tmp_path))
