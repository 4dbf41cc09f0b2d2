import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxtl.data.dataset import Dataset, concatenate
from jaxtl.data.splits import Slice, canonical, parse, positions, select, stratified_order
from jaxtl.errors import UserError


def pool(count: int, classes: int = 3, prefix: str = "") -> Dataset:
    names = tuple(f"{prefix}{i % classes}/img_{i // classes:03d}.jpg" for i in range(count))
    labels = np.arange(count, dtype=np.int32) % classes
    return Dataset(tuple(map(str, range(classes))), labels, names, lambda i: names[i].encode())


def chosen(spec: str, by_position: bool = False, **datasets: Dataset) -> tuple[str, ...]:
    return tuple(select(spec, datasets, by_position=by_position, source="here").names)


def test_parse():
    assert parse("train") == (Slice("train"),)
    assert parse("train[:90%]") == (Slice("train", None, 90.0, True),)
    assert parse("train[12.5%:-10%]") == (Slice("train", 12.5, -10.0, True),)
    assert parse("train[-1_000:]+ test") == (Slice("train", -1000.0, None, False), Slice("test"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "cannot be read"),
        ("train[", "cannot be read"),
        ("train[90%]", "cannot be read"),
        ("train[:]", "bounds of"),
        ("train[:9x]", "bounds of"),
        ("train[:2.5]", "bounds of"),
        ("train[1:2:3]", "cannot be read"),
        ("train[:120%]", "from -100 to 100"),
        ("train[10%:20]", "mixes a percentage and a count"),
        ("train++test", "cannot be read"),
    ],
)
def test_parse_refuses(spec, message):
    with pytest.raises(UserError, match=message):
        parse(spec)


def test_canonical_names():
    assert [canonical(name) for name in ("val", "valid", "validation", "dev", "test")] == ["validation"] * 4 + ["test"]


def test_positions_never_change():
    # Everyone's splits hang on these numbers: they may not change in any version.
    names = ("train/daisy/image_0001.jpg", "train/daisy/image_0002.jpg", "a.png", "b/7", "é.webp")
    golden = [0.5250169904967592, 0.143050979246654, 0.49620164686382295, 0.305035379698145, 0.7154429116729916]
    np.testing.assert_array_equal(positions(names), golden)


def test_positions_look_uniform():
    for names in ([f"class/{i}.jpg" for i in range(5000)], [f"{i:x}g/photo.png" for i in range(5000)]):
        where = positions(names)
        assert where.min() >= 0
        assert where.max() < 1
        counts = np.histogram(where, bins=20, range=(0, 1))[0]
        np.testing.assert_allclose(counts, 250, atol=75)


def test_numbered_files_of_a_class_spread_evenly():
    rng = np.random.default_rng(0)
    for trial in range(200):
        count, first = int(rng.integers(20, 200)), int(rng.integers(0, 5000))
        held_out = positions([f"c{trial}/image_{first + i:05d}.jpg" for i in range(count)]) >= 0.9
        assert abs(held_out.sum() - 0.1 * count) <= 2.5
        assert held_out.any()


def test_an_example_keeps_its_side_when_others_are_added_or_removed():
    whole = pool(600)
    rng = np.random.default_rng(1)
    for spec in ("all[:90%]", "all[90%:]", "all[25%:-25%]"):
        side = set(chosen(spec, all=whole))
        for _ in range(5):
            some = whole.take(rng.permutation(600)[: rng.integers(50, 600)])
            assert set(chosen(spec, all=some)) == side & set(some.names)


def test_slices_part_a_split_without_loss():
    whole = pool(437)
    for cut in ("90%", "33.3%", "-20%", "100", "-7"):
        low, high = chosen(f"all[:{cut}]", all=whole), chosen(f"all[{cut}:]", all=whole)
        assert sorted(low + high) == sorted(whole.names)
    assert len(chosen("all[:100]", all=whole)) == 100
    assert len(chosen("all[-7:]", all=whole)) == 7


def test_counts_are_stratified():
    labels = np.repeat(np.arange(4, dtype=np.int32), [200, 100, 50, 50])
    names = tuple(f"x/{i}" for i in np.random.default_rng(2).permutation(400))
    whole = Dataset(("a", "b", "c", "d"), labels, names, lambda i: b"")
    for count in (8, 16, 80, 399):
        picked = select(f"train[:{count}]", {"train": whole}, by_position=False, source="here")
        shares = np.bincount(picked.labels, minlength=4)
        np.testing.assert_allclose(shares, count * np.array([0.5, 0.25, 0.125, 0.125]), atol=1)


def test_stratified_order_by_hand():
    labels = np.array([0, 0, 1, 0, 0])
    where = np.array([0.9, 0.1, 0.5, 0.3, 0.2])
    # Class 0 in order of place is 1, 4, 3, 0 at 1/8, 3/8, 5/8, 7/8; the one of class 1 stands at 1/2.
    assert stratified_order(labels, where).tolist() == [1, 4, 2, 3, 0]


def test_slices_by_position_are_those_of_tfds():
    rng = np.random.default_rng(3)
    info = {}
    for count in (7, 100, 1017):
        data = pool(count)
        info = {"train": type("Info", (), {"num_examples": count})()}
        for _ in range(60):
            low, high = sorted(rng.integers(0, 101, size=2))
            unit = "%"
            if rng.random() < 0.5:
                low, high, unit = low * count // 100, high * count // 100, ""
            spec = rng.choice(
                [f"[{low}{unit}:{high}{unit}]", f"[{low}{unit}:]", f"[:{high}{unit}]", f"[-{high}{unit}:]"]
            )
            (theirs,) = tfds.core.ReadInstruction.from_spec(f"train{spec}").to_absolute(info)
            expected = tuple(data.names[theirs.from_ : theirs.to])
            if expected:
                assert chosen(f"train{spec}", by_position=True, train=data) == expected


def test_unions_and_names():
    train, test = pool(6, prefix="train/"), pool(4, prefix="test/")
    assert chosen("train+test", train=train, test=test) == train.names + test.names
    assert chosen("all", train=train, test=test) == train.names + test.names
    assert chosen("val", validation=train) == train.names
    assert chosen("validation", valid=train) == train.names
    assert chosen("train[:3]", all=train) == chosen("all[:3]", all=train)


def test_concatenate_reads_from_the_right_part():
    joined = concatenate([pool(3, prefix="a/"), pool(1, prefix="b/"), pool(2, prefix="c/")])
    assert [joined.read(i).decode() for i in range(6)] == list(joined.names)
    assert joined.labels.tolist() == [0, 1, 2, 0, 0, 1]
    backwards = joined.take(np.array([5, 3, 0]))
    assert [backwards.read(i).decode() for i in range(3)] == [joined.names[i] for i in (5, 3, 0)]


def test_refusals():
    data = {"train": pool(10), "test": pool(10)}
    with pytest.raises(UserError, match="here has no split 'val'; it has train, test"):
        select("val", data, by_position=False, source="here")
    with pytest.raises(UserError, match=r"split 'train\[:0%\]' of here is empty"):
        select("train[:0%]", data, by_position=False, source="here")
    with pytest.raises(UserError, match="reaches past the 10 examples of 'train'"):
        select("train[:11]", data, by_position=False, source="here")


def test_folds_in_the_split_language():
    data = pool(40)
    parts = [chosen(f"fold {number}/4", train=data) for number in range(1, 5)]
    assert sorted(sum(parts, ())) == sorted(data.names)
    assert sorted(chosen("not fold 2/4", train=data)) == sorted({*data.names} - {*parts[1]})
    assert chosen("train[fold 2/4]", train=data) == chosen("all[fold 2/4]", train=data) == parts[1]
    assert set(chosen("fold 1/4+fold 3/4", train=data)) == {*parts[0], *parts[2]}
    assert chosen("fold 2/4 of repeat 2", train=data) != parts[1]
    assert chosen("fold 2/4", all=data) == parts[1]
    assert chosen("fold 2/4", by_position=True, train=data) == parts[1]
    for wrong in ("fold 3", "folds 1/4", "train[fold 1]", "nofold 1/4"):
        with pytest.raises(UserError, match='or "not fold 3/5"'):
            select(wrong, {"train": data}, by_position=False, source="here")
