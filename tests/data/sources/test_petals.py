"""The embedded flowers: what the two sets hold, that they are always the same, and how hard they are."""

import hashlib
import io
import itertools
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxtl.data.sources import petals_render
from jaxtl.data.sources.petals import PRETRAIN, TRANSFER, PetalsConfig, picture

TINY = PetalsConfig(name="tiny", version="1.0.0", species=TRANSFER[:3], train=4, validation=2, test=3)


def prepare(folder: Path, config: PetalsConfig | str):
    builder = tfds.builder("petals", config=config, data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return builder


def traits(species):
    return [species.colour, species.shape, species.count, species.pattern, species.centre]


def test_the_sets_of_species_are_disjoint_and_their_names_unique():
    names = [species.name for species in PRETRAIN + TRANSFER]
    assert (len(PRETRAIN), len(TRANSFER)) == (49, 12)
    assert len(set(names)) == 61
    assert TRANSFER[0].name == "white_round_6_striped_stamens"


@pytest.mark.parametrize("species", [PRETRAIN, TRANSFER], ids=["pretrain", "transfer"])
def test_two_species_of_a_set_share_one_trait_at_most(species):
    for one, other in itertools.combinations(species, 2):
        shared = sum(a == b for a, b in zip(traits(one), traits(other), strict=True))
        assert shared <= 1, (one.name, other.name)


def test_every_trait_of_transfer_occurs_in_pretrain():
    for seen, asked in zip(
        zip(*map(traits, PRETRAIN), strict=True), zip(*map(traits, TRANSFER), strict=True), strict=True
    ):
        assert set(asked) <= set(seen)


def test_pictures_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for species in TRANSFER[::4] + PRETRAIN[::12]:
        for number in range(3):
            image = picture(species, "train", number)
            assert image.shape == (64, 64, 3)
            assert image.dtype == np.uint8
            digest.update(image.tobytes())
    assert digest.hexdigest() == "de34f99723aa6378f8201e20c2f09942c830fb874efb194681391885b8148082"


def test_pictures_differ_between_numbers_splits_and_species():
    drawn = [
        picture(species, split, number).tobytes()
        for species in TRANSFER[:3]
        for split in ("train", "validation", "test")
        for number in range(5)
    ]
    assert len(set(drawn)) == 45


@pytest.mark.parametrize("shape", petals_render.SHAPES)
def test_petals_are_longest_near_their_axis_and_meet_between_two(shape):
    outline = petals_render.SHAPES[shape]
    reach = petals_render._reach(outline, np.linspace(0, 1, 101))
    assert 0.85 <= reach[:40].max() <= 1.1
    assert reach[-1] == reach.min()
    assert reach[-1] == pytest.approx(outline.gap * (1 + outline.ruffle * np.cos(5.5 * np.pi)), abs=1e-3)


@pytest.mark.parametrize(
    ("hsv", "rgb"),
    [
        ((0, 1, 1), (1, 0, 0)),
        ((1 / 3, 1, 1), (0, 1, 0)),
        ((2 / 3, 1, 0.5), (0, 0, 0.5)),
        ((1 / 6, 0.5, 1), (1, 1, 0.5)),
        ((0.9, 0, 0.25), (0.25, 0.25, 0.25)),
        ((-1 / 3, 2, 1), (0, 0, 1)),
    ],
)
def test_hsv_to_rgb(hsv, rgb):
    np.testing.assert_allclose(petals_render._rgb(petals_render.Hsv(*hsv)), rgb, atol=1e-12)


def test_coverage_is_the_share_of_a_pixel_on_the_positive_side():
    columns = np.tile(np.arange(8.0), (8, 1))
    expected = np.clip(columns[0] - 3.25 + 0.5, 0, 1)
    np.testing.assert_allclose(petals_render._coverage(0.1 * (columns - 3.25))[0], expected)
    assert expected.tolist() == [0, 0, 0, 0.25, 1, 1, 1, 1]


def test_a_prepared_set_holds_the_pictures(tmp_path):
    builder = prepare(tmp_path, TINY)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 12,
        "validation": 6,
        "test": 9,
    }
    assert builder.info.features["label"].names == [species.name for species in TRANSFER[:3]]
    encoded = builder.as_data_source(split="train", decoders={"image": tfds.decode.SkipDecoding()})
    stored = {(int(row["label"]), np.array(Image.open(io.BytesIO(row["image"]))).tobytes()) for row in encoded}
    drawn = {(label, picture(TRANSFER[label], "train", number).tobytes()) for label in range(3) for number in range(4)}
    assert stored == drawn


def test_preparing_twice_writes_the_same_bytes(tmp_path):
    files = []
    for name in ("once", "again"):
        folder = Path(prepare(tmp_path / name, TINY).data_path)
        files.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert len(files[0]) >= 6
    assert files[0] == files[1]


@pytest.mark.skipif(find_spec("tensorflow") is not None, reason="only an installation without TensorFlow shows it")
def test_preparing_needs_neither_tensorflow_nor_a_network(tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert len(prepare(tmp_path, TINY).as_data_source(split="train")) == 12
    assert "tensorflow" not in sys.modules


@pytest.mark.slow
def test_transfer_is_not_told_apart_by_the_mean_picture_of_a_species(tmp_path):
    builder = prepare(tmp_path, "transfer")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 288,
        "validation": 120,
        "test": 600,
    }

    def load(split):
        rows = list(builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()}))
        pixels = np.stack([np.array(Image.open(io.BytesIO(row["image"])), np.float32).ravel() / 255 for row in rows])
        return pixels, np.array([row["label"] for row in rows])

    (train, train_labels), (test, test_labels) = load("train"), load("test")
    assert np.bincount(train_labels).tolist() == [24] * 12
    assert np.bincount(test_labels).tolist() == [50] * 12
    centroids = np.stack([train[train_labels == label].mean(0) for label in range(12)])
    distances = (centroids**2).sum(1)[None] - 2 * test @ centroids.T
    accuracy = np.mean(distances.argmin(1) == test_labels)
    assert 1 / 12 < accuracy < 0.4
