import io
import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jaxtl.data.augment import Augmentation, train_view
from jaxtl.data.dataset import Dataset
from jaxtl.data.decode import ImageError, eval_view
from jaxtl.data.loader import Reading, eval_batches, train_batches, view_batches
from jaxtl.data.preloading import preload
from jaxtl.data.rows import own_rows, train_rows
from jaxtl.data.source import open_source
from jaxtl.preprocessing import Pixels

PIXELS = Pixels(8, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")


def numbered(count: int) -> Dataset:
    """Example i is a picture of the one value i, with label i % 3."""
    return Dataset(
        classes=("a", "b", "c"),
        labels=np.arange(count, dtype=np.int32) % 3,
        names=tuple(map(str, range(count))),
        read=lambda i: np.full((8, 8, 3), i, np.uint8),
    )


def noisy(count: int) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (count, 12, 10, 3), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int32) % 3
    return Dataset(("a", "b", "c"), labels, tuple(map(str, range(count))), lambda i: images[i])


def plain(image: Image.Image) -> np.ndarray:
    return eval_view(image, PIXELS)


def still(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    return eval_view(image, PIXELS)


def augmented(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    return train_view(image, PIXELS, rng, Augmentation(color_jitter=0.3))


def take(batches, count: int) -> list[dict[str, np.ndarray]]:
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def train(dataset: Dataset, count: int, **options) -> list[dict[str, np.ndarray]]:
    who = {key: options.pop(key) for key in ("workers", "prefetch") if key in options}
    settings = {"batch_size": 8, "seed": 5, "view": augmented, **options}
    return take(train_batches(dataset, **settings, reading=Reading(**{"workers": 2, **who})), count)


def shown(batches: list[dict[str, np.ndarray]]) -> list[int]:
    return [int(value) for batch in batches for value in batch["image"][:, 0, 0, 0]]


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_form_of_a_training_batch():
    (batch,) = train(noisy(20), 1)
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "image": ((8, 8, 8, 3), "uint8"),
        "label": ((8,), "int32"),
        "mask": ((8,), "float32"),
    }
    assert batch["mask"].tolist() == [1.0] * 8


def test_weights_go_with_their_images_in_training_alone():
    weighted = replace(numbered(20), weights=np.arange(20, dtype=np.float32) + 1)
    batches = train(weighted, 5, view=still)
    assert [weight - 1 for batch in batches for weight in batch["mask"]] == shown(batches)
    evaluated = take(eval_batches(weighted, batch_size=16, view=plain), 2)
    assert [batch["mask"].tolist() for batch in evaluated] == [[1.0] * 16, [1.0] * 4 + [0.0] * 12]
    assert weighted.take(np.array([3, 0])).weights.tolist() == [4.0, 1.0]


def test_epochs_are_permutations_that_straddle_batches():
    order = shown(train(numbered(11), 11, view=still, batch_size=4))
    epochs = [order[start : start + 11] for start in range(0, 44, 11)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_larger_than_the_set():
    order = shown(train(numbered(3), 2, view=still, batch_size=8))
    assert [sorted(order[i : i + 3]) for i in range(0, 15, 3)] == [[0, 1, 2]] * 5


def test_the_order_never_changes():
    # A run resumed under another version must go on with the same examples.
    assert shown(train(numbered(6), 2, view=still, batch_size=6, seed=0)) == [3, 2, 5, 4, 0, 1, 1, 4, 5, 3, 2, 0]


def test_labels_belong_to_their_images():
    for batch in train(numbered(50), 10, view=still):
        np.testing.assert_array_equal(batch["label"], batch["image"][:, 0, 0, 0] % 3)


def test_seeds_give_other_orders_and_views():
    ours, theirs = train(noisy(30), 1), train(noisy(30), 1, seed=6)
    assert not np.array_equal(ours[0]["label"], theirs[0]["label"]) or not np.array_equal(
        ours[0]["image"], theirs[0]["image"]
    )


def test_an_example_is_seen_anew_in_each_epoch():
    one = noisy(1)
    first, second = train(one, 2, batch_size=1)
    assert not np.array_equal(first["image"], second["image"])


@pytest.mark.parametrize("start", [1, 2, 7, 30])
def test_resume_is_exact(start):
    whole = train(noisy(23), 33)
    assert_equal(train(noisy(23), 33 - start, start_step=start), whole[start:])


def test_a_late_start_costs_nothing():
    start = time.monotonic()
    (batch,) = train(noisy(23), 1, start_step=10**9)
    assert batch["image"].shape[0] == 8
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 7}, {"prefetch": 0}, {"prefetch": 9}])
def test_batches_do_not_depend_on_how_they_are_made(options):
    assert_equal(train(noisy(23), 9, **options), train(noisy(23), 9))


@pytest.mark.parametrize("min_side", [0, 30])
def test_preloaded_images_give_the_same_batches(min_side):
    rng = np.random.default_rng(0)
    files = []
    for _ in range(20):
        file = io.BytesIO()
        height, width = rng.integers(60, 130, size=2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())
    dataset = replace(noisy(20), read=files.__getitem__)
    kept = preload(dataset, budget_bytes=2**20, min_side=min_side)
    assert kept is not dataset
    assert_equal(train(kept, 6, min_side=min_side), train(dataset, 6, min_side=min_side))


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_shards_join_to_the_global_batch(hosts):
    whole = train(noisy(23), 6)
    shards = [train(noisy(23), 6, shard=(host, hosts)) for host in range(hosts)]
    joined = [{key: np.concatenate([s[i][key] for s in shards]) for key in whole[0]} for i in range(6)]
    assert_equal(joined, whole)


def test_evaluation_shows_everything_once_in_order():
    batches = list(eval_batches(numbered(19), batch_size=8, view=plain))
    assert [batch["image"].shape for batch in batches] == [(8, 8, 8, 3)] * 3
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert mask.tolist() == [1.0] * 19 + [0.0] * 5
    assert shown(batches)[:19] == list(range(19))
    labels = np.concatenate([batch["label"] for batch in batches])
    assert labels.tolist() == [i % 3 for i in range(19)] + [0] * 5
    assert not batches[-1]["image"][3:].any()


@pytest.mark.parametrize(("count", "hosts"), [(19, 2), (17, 4), (1, 8), (16, 4)])
def test_evaluation_in_shards(count, hosts):
    whole = list(eval_batches(noisy(count), batch_size=8, view=plain))
    shards = [list(eval_batches(noisy(count), batch_size=8, view=plain, shard=(h, hosts))) for h in range(hosts)]
    joined = [{key: np.concatenate([s[i][key] for s in shards]) for key in whole[0]} for i in range(len(whole))]
    assert_equal(joined, whole)


def test_every_batch_has_memory_of_its_own():
    first, second = train(noisy(23), 2)
    copy = first["image"].copy()
    second["image"][:] = 0
    np.testing.assert_array_equal(first["image"], copy)


def broken_at(index: int) -> Dataset:
    good = numbered(40)
    return Dataset(good.classes, good.labels, good.names, lambda i: b"broken" if i == index else good.read(i))


def test_an_error_reaches_the_consumer_when_its_batch_is_due():
    batches = eval_batches(broken_at(19), batch_size=8, view=plain)
    assert shown([next(batches), next(batches)]) == list(range(16))
    with pytest.raises(ImageError, match=r"^19 is no image"):
        next(batches)
    assert not data_threads()
    with pytest.raises(ImageError, match=r"^3 is no image"):
        train(broken_at(3), 5, view=still)


def data_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("jaxtl-data")]


def test_closing_ends_the_threads():
    batches = train_batches(noisy(23), batch_size=8, seed=0, view=augmented, reading=Reading(workers=3))
    assert not data_threads()
    next(batches)
    assert data_threads()
    batches.close()
    assert not data_threads()
    list(eval_batches(noisy(23), batch_size=8, view=plain))
    assert not data_threads()


def test_work_ahead_is_bounded():
    reads = []
    good = numbered(200)

    def read(i: int) -> np.ndarray:
        reads.append(i)
        return good.read(i)

    batches = train_batches(
        Dataset(good.classes, good.labels, good.names, read),
        batch_size=4,
        seed=0,
        view=still,
        reading=Reading(prefetch=2),
    )
    next(batches)
    time.sleep(0.2)
    # Three batches of four, and one example to learn the shape of a view.
    assert len(reads) == 13
    batches.close()


def test_refusals():
    with pytest.raises(ValueError, match="batch_size=6 must be a positive multiple of the 4 hosts"):
        train_batches(noisy(9), batch_size=6, seed=0, view=augmented, shard=(0, 4))
    with pytest.raises(ValueError, match=r"shard=\(2, 2\)"):
        eval_batches(noisy(9), batch_size=6, view=plain, shard=(2, 2))
    with pytest.raises(ValueError, match="no examples"):
        eval_batches(noisy(9).take(np.array([], int)), batch_size=6, view=plain)


def test_photographs_arrive_as_pillow_decodes_them(shared):
    flowers = open_source(f"folder:{shared}/datasets/oxford_flowers12").split("test[:20]")
    pixels = Pixels(224, 224, (0.5,) * 3, (0.5,) * 3, "bicubic")
    (batch,) = eval_batches(flowers, batch_size=20, view=lambda image: eval_view(image, pixels))
    for row, name in enumerate(flowers.names):
        expected = np.asarray(Image.open(shared / "datasets/oxford_flowers12" / name).convert("RGB"))
        np.testing.assert_array_equal(batch["image"][row], expected)
    np.testing.assert_array_equal(batch["label"], flowers.labels)


def test_views_in_order_are_those_that_training_draws():
    dataset = numbered(10)

    def view(image, rng):
        return np.stack([np.asarray(image)[:2, :2, 0], rng.integers(0, 256, (2, 2)), np.zeros((2, 2))], -1)

    shown = np.concatenate([batch["image"] for batch in train(dataset, 4, batch_size=5, view=view)])
    for epoch in (0, 1):
        batches = list(view_batches(dataset, batch_size=4, seed=5, epoch=epoch, view=view))
        assert [batch["mask"].sum() for batch in batches] == [4, 4, 2]
        images = np.concatenate([batch["image"] for batch in batches])[:10]
        drawn = shown[10 * epoch : 10 * (epoch + 1)]
        np.testing.assert_array_equal(images, drawn[np.argsort(drawn[:, 0, 0, 0])])


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize(("count", "hosts"), [(54, 2), (54, 4), (16, 2), (7, 4), (40, 1)])
def test_in_one_epoch_each_example_is_read_by_one_host(count, hosts, seed):
    shares = [own_rows(count, batch_size=16, shard=(host, hosts), seed=seed) for host in range(hosts)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(count))
    if seed is not None:
        host = hosts - 1
        plans = train_rows(np.zeros(count), batch_size=16, seed=seed, shard=(host, hosts))
        first = [row for _ in range(count // 16) for row in next(plans).index.tolist()]
        assert shares[host][: len(first)].tolist() == first
