"""A view is a function of (seed, epoch, image), whoever draws it, with everything that can be drawn."""

import itertools

import numpy as np
import pytest

from jaxtl.data import shared_memory
from jaxtl.data.augment import Augmentation, RandomView
from jaxtl.data.dataset import Dataset
from jaxtl.data.loader import Reading, train_batches, view_batches
from jaxtl.preprocessing import Pixels

PIXELS = Pixels(16, 20, (0.4, 0.5, 0.6), (0.2,) * 3, "bicubic")
MOVED = {"rotate": 20.0, "shear": 10.0, "zoom": 0.2, "translate": 0.1, "vertical_flip": 0.5, "fill": "reflect"}
COLOURED = {"color_jitter": 0.3, "hue": 0.1, "grayscale": 0.3, "blur": 0.5, "noise": 0.05, "erase": 0.5}
READERS = [Reading(workers=workers, reader="threads") for workers in (0, 1, 2, 4)]
if shared_memory.available():
    READERS += [Reading(workers=workers, reader="processes") for workers in (2, 4)]


def view(policy):
    return RandomView(PIXELS, Augmentation(**MOVED, **COLOURED, policy=policy))


def dataset():
    images = np.random.default_rng(0).integers(0, 256, (23, 30, 26, 3), dtype=np.uint8)
    return Dataset(("a",), np.zeros(23, np.int32), tuple(map(str, range(23))), images.__getitem__)


def train(count, *, start_step=0, reading=READERS[1], shard=(0, 1), policy="randaugment"):
    options = {"batch_size": 8, "seed": 5, "view": view(policy), "start_step": start_step, "shard": shard}
    stream = train_batches(dataset(), **options, reading=reading)
    try:
        return [batch["image"] for batch in itertools.islice(stream, count)]
    finally:
        stream.close()


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment", "autoaugment"])
def test_views_are_the_same_whoever_draws_them(policy):
    wanted = train(6, policy=policy)
    for reading in READERS:
        np.testing.assert_array_equal(train(6, policy=policy, reading=reading), wanted)


@pytest.mark.parametrize("start", [1, 3, 5])
@pytest.mark.parametrize("reading", READERS[-1:])
def test_started_again_the_views_go_on(start, reading):
    np.testing.assert_array_equal(train(6 - start, start_step=start, reading=reading), train(6)[start:])


def test_hosts_share_the_views_out():
    halves = [train(4, shard=(host, 2)) for host in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), train(4))


def test_an_image_is_seen_anew_in_each_epoch_and_again_with_the_seed():
    def epoch(number, seed=5):
        stream = view_batches(dataset(), batch_size=23, seed=seed, epoch=number, view=view("randaugment"))
        (batch,) = stream
        return batch["image"]

    np.testing.assert_array_equal(epoch(3), epoch(3))
    for other in (epoch(4), epoch(3, seed=6)):
        assert (epoch(3) != other).any(axis=(1, 2, 3)).all()
