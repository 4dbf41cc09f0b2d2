import numpy as np
import pytest

from jaxtl.data.choosing import choose_splits
from jaxtl.data.corrections import NO_CORRECTIONS, in_short, read_corrections
from jaxtl.data.dataset import Dataset
from jaxtl.data.source import Source
from jaxtl.errors import UserError

CLASSES = ("cat", "dog", "exclude me")


def dataset(names, labels, several=False):
    labels = np.array(labels, np.uint8 if several else np.int32)
    return Dataset(CLASSES, labels, tuple(names), lambda i: np.zeros((2, 2, 3), np.uint8))


@pytest.fixture
def splits():
    return {"train": dataset(["a", "b", "c", "d"], [0, 0, 1, 1]), "test": dataset(["x", "y"], [0, 1])}


@pytest.fixture
def table(tmp_path):
    def write(*lines, header="image,split,label,problem,detail,suggestion,action"):
        path = tmp_path / "audit.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
        return str(path)

    return write


def read(splits, path, **keys):
    return read_corrections(splits, "folder:pets", **(keys or {"exclude": path, "relabel": path}))


def test_one_table_serves_both(splits, table):
    path = table(
        "a,train,cat,blurred,,,exclude",
        "b,train,cat,,,,dog",
        "c,train,dog,,,,keep",
        "d,train,dog,,,,",
        "x,test,cat,,,,Exclude",
    )
    found = read(splits, path)
    assert found.excluded == {"a", "x"}
    assert dict(found.relabelled) == {"b": 1}
    train = found.apply(splits["train"])
    assert (list(train.names), train.labels.tolist()) == (["b", "c", "d"], [1, 1, 1])
    assert splits["train"].labels.tolist() == [0, 0, 1, 1]
    assert in_short(found.changes(splits)) == [
        "2 images left out by hand (1 of train, 1 of test): a; x",
        "1 images with another label by hand (1 of train): b cat -> dog",
    ]
    assert found.changes(splits)[1] == {"image": "b", "split": "train", "label": "cat", "action": "dog"}


def test_what_the_other_key_would_take_is_said(splits, table):
    path = table("a,train,cat,,,,exclude", "b,train,cat,,,,dog")
    assert read(splits, path, exclude=path).notes == (
        f"{path} gives 1 images a class, too, which is left alone: set relabel to it",
    )
    assert read(splits, path, relabel=path).notes == (
        f"{path} excludes 1 images, too, which are left in: set exclude to it",
    )
    nothing = table("a,train,cat,,,,keep")
    assert len(read(splits, nothing).notes) == 2
    assert read(splits, nothing).excluded == set()


def test_a_list_by_hand_of_a_spreadsheet_will_do(splits, table):
    path = table("a;exclude", "b;dog", header="\ufeffImage;Action")
    assert (read(splits, path).excluded, dict(read(splits, path).relabelled)) == ({"a"}, {"b": 1})
    # Labels that were left empty say nothing.
    assert read(splits, table("a,,exclude", header="image,label,action")).excluded == {"a"}


def test_several_labels(table):
    found = {"all": dataset(["a", "b"], [[1, 0, 0], [0, 0, 0]], several=True)}
    corrections = read(found, table("a,all,cat,,,,cat; dog", "b,all,,,,,dog"))
    assert corrections.apply(found["all"]).labels.tolist() == [[1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["q,train,cat,,,,exclude", "r,train,cat,,,,exclude", "a,train,cat,,,,exclude"],
         "2 of 3 images of FILE are not in folder:pets: q, r; is it the table of another source?"),
        (["a,train,dog,,,,exclude"],
         "1 images of FILE have another label in folder:pets, as line 2: a is 'dog' there and 'cat' in the "
         "source; audit it again, or take the column label away"),
        (["a,train,cat,,,,cow"],
         "FILE, line 2: the action 'cow' is no class of folder:pets: An action is 'exclude', 'keep', or one of cat, "
         "dog, exclude me"),
        (["a,train,cat,,,,exlude", "b,train,cat,,,,dgo"],
         "FILE, line 2: the action 'exlude' (2 lines have such ones) is no class of folder:pets: did you mean "
         "'exclude'? An action is 'exclude', 'keep', or one of cat, dog, exclude me"),
        (["a,train,cat,blank,,,exclude", "a,train,cat,dark,,,dog"],
         "FILE has two actions for 1 images: a (lines 2 and 3: exclude, dog)"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_told(splits, table, lines, message):
    path = table(*lines)
    with pytest.raises(UserError) as error:
        read(splits, path)
    assert str(error.value).replace(path, "FILE") == message
    assert error.value.arguments == ("exclude",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column image and no column action: its first line has nothing"),
        (b"file,what\na,exclude\n", "has no column image and no column action: its first line has 'file', 'what'"),
        (b"PK\x03\x04\0\0", "cannot be read as a table: it holds binary data"),
        (b'image,action\n"a,exclude\n', "cannot be read as a table: unexpected end of data"),
        (None, "does not exist: give the audit.csv of the source, with actions in it"),
    ],
)
def test_files_that_are_no_such_table(splits, tmp_path, content, message):
    path = tmp_path / "audit.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read(splits, str(path), relabel=str(path))
    assert (str(error.value), error.value.arguments) == (f"{path} {message}", ("relabel",))


def test_a_class_that_is_called_as_an_action_is_refused(table):
    named = Dataset(("exclude", "dog"), np.int32([0, 1]), ("a", "b"), None)
    with pytest.raises(UserError, match="'exclude' is an action, and a class of folder:pets: rename that class"):
        read({"all": named}, table("a,all,exclude,,,,exclude"))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("names", [("all",), ("train", "test"), ("train", "validation", "test")])
def test_no_other_image_changes_its_side(table, seed, names):
    """Whatever is left out or relabelled, of small classes too, which a cut fills up on each side."""
    rng = np.random.default_rng(seed)
    found = {
        name: dataset([f"{name}/{rng.integers(10**9)}.jpg" for _ in range(30)], rng.integers(0, 3, 30).tolist())
        for name in names
    }
    source = Source("folder:pets", CLASSES, found)
    before = choose_splits(source)
    everything = [name for each in found.values() for name in each.names]
    chosen = rng.choice(everything, 12, replace=False)
    path = table(*(f"{n},exclude" for n in chosen[:6]), *(f"{n},dog" for n in chosen[6:]), header="image,action")
    corrected = Source("folder:pets", CLASSES, found, corrections=read(found, path))
    after = choose_splits(corrected)
    for title in ("train", "val", "test"):
        old, new = getattr(before, title), getattr(after, title)
        assert list(new.names) == [name for name in old.names if name not in chosen[:6]]
        labels = dict(zip(old.names, old.labels.tolist(), strict=True)) | dict.fromkeys(chosen[6:], 1)
        assert new.labels.tolist() == [labels[name] for name in new.names]
    assert sorted(change["image"] for change in after.changes) == sorted(chosen)
    assert sum("by hand" in note for note in after.notes) == 2
    assert list(corrected.split("train[:50%]" if "train" in names else "all").names) == [
        name for name in source.split("train[:50%]" if "train" in names else "all").names if name not in chosen[:6]
    ]


def test_a_split_of_which_nothing_is_left_is_an_error(splits, table):
    path = table("x,exclude", "y,exclude", header="image,action")
    source = Source("folder:pets", CLASSES, splits, corrections=read(splits, path, exclude=path))
    with pytest.raises(UserError, match="all images of split 'test' of folder:pets are excluded"):
        source.split("test")
    with pytest.raises(UserError, match="all images of test of folder:pets are excluded"):
        choose_splits(source, val="train[:50%]", train="train[50%:]")


def test_without_tables_nothing_changes(splits):
    assert NO_CORRECTIONS.apply(splits["train"]) is splits["train"]
    assert read_corrections(splits, "folder:pets") == NO_CORRECTIONS
