"""The audit command on spoilt sets, and what becomes of its table when a person has filled it in."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxtl import main as jaxtl_main
from jaxtl.audit import wrong_labels
from jaxtl.config import default
from jaxtl.experiment.auditing import audit_source


def table_of(folder):
    with open(folder / "audit.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fill_in(folder, actions):
    """Writes actions into the table: {image: action}; returns its path."""
    rows = table_of(folder)
    with open(folder / "audit.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows({**row, "action": actions.get(row["image"], "")} for row in rows)
    return folder / "audit.csv"


@pytest.fixture
def spoilt(pictures):
    """The pictures with an unreadable file, a duplicate, a leak, a conflict, a blank image and a large one."""
    train, test = pictures / "train", pictures / "test"
    (train / "red" / "bad.png").write_bytes(b"no picture")
    shutil.copy(train / "red" / "000.png", train / "red" / "again.png")
    shutil.copy(test / "green" / "100.png", train / "green" / "leak.png")
    Image.open(train / "blue" / "001.png").save(train / "green" / "other.bmp")
    Image.new("RGB", (24, 20), (9, 9, 9)).save(train / "blue" / "blank.png")
    Image.open(train / "blue" / "002.png").resize((240, 200), Image.Resampling.NEAREST).save(
        train / "blue" / "large.png"
    )
    return pictures


def audit(jaxtl, config_file, source, *flags, workdir="audit"):
    return jaxtl("audit", f"--config={config_file}", f"--workdir={workdir}", f"--config.data.source={source}", *flags)


def test_what_is_planted_is_found_and_goes_away(jaxtl, config_file, spoilt, tmp_path):
    status, out, err = audit(jaxtl, config_file, f"folder:{spoilt}")
    assert (status, err) == (0, "")
    rows = table_of(tmp_path / "audit")
    found = {(row["image"], row["problem"], row["suggestion"]) for row in rows}
    assert found >= {
        ("train/red/bad.png", "unreadable", "exclude"),
        ("train/red/again.png", "duplicate", "exclude"),
        ("train/green/leak.png", "leak", "exclude"),
        ("train/green/other.bmp", "conflicting labels", ""),
        ("train/blue/001.png", "conflicting labels", ""),
        ("train/blue/blank.png", "blank", "exclude"),
        ("train/blue/large.png", "odd size", ""),
        ("train/blue/large.png", "near duplicate", "exclude"),
    }
    assert len(found) == 8
    assert not any(row["action"] for row in rows)
    assert out.splitlines()[0] == f"looks at 84 images of folder:{spoilt}"
    facts = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert facts["images"] == sum(facts["splits"].values()) == 84
    assert facts["counts"]["leak"] == 1
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert page.count("<h2") == 7
    assert page.count('src="data:image/jpeg') == page.count("<img ") == 12
    assert all(f'alt="{name}' in page for name in ("train/red/again.png", "test/green/100.png"))

    actions = {row["image"]: "exclude" for row in rows if row["problem"] not in ("conflicting labels",)}
    filled = fill_in(tmp_path / "audit", {**actions, "train/green/other.bmp": "blue", "train/blue/001.png": "exclude"})
    keys = (f"--config.data.exclude={filled}", f"--config.data.relabel={filled}")
    status, out, err = audit(jaxtl, config_file, f"folder:{spoilt}", *keys, workdir="again")
    assert (status, err) == (0, "")
    again = table_of(tmp_path / "again")
    assert {row["problem"] for row in again} == {"corrected"}
    assert {row["image"]: row["action"] for row in again} == {
        **actions,
        "train/green/other.bmp": "blue",
        "train/blue/001.png": "exclude",
    }
    # The table of the second audit has all that the first was told, so it may take its place.
    status, _, err = audit(
        jaxtl, config_file, f"folder:{spoilt}", *(key.replace("/audit/", "/again/") for key in keys), workdir="third"
    )
    assert (status, err) == (0, "")
    assert table_of(tmp_path / "third") == again


def test_the_table_of_a_second_audit_goes_back_into_the_same_source(jaxtl, config_file, spoilt, tmp_path):
    source = f"folder:{spoilt}"
    assert audit(jaxtl, config_file, source)[0] == 0
    # Large, and of another class now: it is found again, under the label that it was given.
    table = fill_in(tmp_path / "audit", {"train/blue/large.png": "red", "train/red/bad.png": "exclude"})
    given = (f"--config.data.relabel={table}", f"--config.data.exclude={table}")
    assert audit(jaxtl, config_file, source, *given, workdir="second")[0] == 0
    rows = [row for row in table_of(tmp_path / "second") if row["image"] == "train/blue/large.png"]
    assert [(row["problem"], row["label"], row["action"]) for row in rows][:2] == [
        ("corrected", "blue", "red"),
        ("conflicting labels", "blue", ""),
    ]
    second = fill_in(tmp_path / "second", {"train/blue/large.png": "green", "train/red/bad.png": "exclude"})
    given = (f"--config.data.relabel={second}", f"--config.data.exclude={second}")
    status, out, err = audit(jaxtl, config_file, source, *given, workdir="third")
    assert (status, err) == (0, "")
    assert "train/blue/large.png blue -> green" in out


def test_a_run_says_what_was_put_right_and_keeps_it(train, spoilt, tmp_path):
    (tmp_path / "mine.csv").write_text("image,action\ntrain/red/bad.png,exclude\ntrain/green/other.bmp,blue\n")
    keys = [f"--config.data.{key}={tmp_path / 'mine.csv'}" for key in ("exclude", "relabel")]
    status, out, err = train(*keys)
    assert (status, err) == (0, "")
    assert "images left out by hand (1 of " in out
    assert "train/green/other.bmp green -> blue" in out
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert {(change["image"], change["label"], change["action"]) for change in record["changes"]} == {
        ("train/red/bad.png", "red", "exclude"),
        ("train/green/other.bmp", "green", "blue"),
    }
    # Of the run, and of other images, for which those tables are none.
    status, out, err = train(*keys)
    assert (status, err) == (0, "")
    flags = [f"--config.model.weights=run:{tmp_path / 'run'}", f"--workdir={tmp_path / 'eval'}"]
    assert jaxtl_main.main(["eval", *flags, f"--config.data.source=folder:{spoilt}"]) == 0
    other = shutil.copytree(spoilt / "test", tmp_path / "other")
    assert jaxtl_main.main(["eval", *flags, f"--config.data.source=folder:{other}"]) == 0


def test_the_table_changed_the_run_does_not_go_on(train, spoilt, tmp_path):
    (tmp_path / "mine.csv").write_text("image,action\ntrain/red/bad.png,exclude\n")
    assert train(f"--config.data.exclude={tmp_path / 'mine.csv'}", "--config.train.steps=2")[0] == 0
    (tmp_path / "run" / "results.json").unlink()
    (tmp_path / "mine.csv").write_text("image,action\ntrain/red/bad.png,exclude\ntrain/red/again.png,exclude\n")
    status, _, err = train(f"--config.data.exclude={tmp_path / 'mine.csv'}", "--config.train.steps=2")
    assert status == 1
    assert "images changed" in err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "image,action\nx.png,exclude\n",
            "1 of 1 images of TABLE are not in SOURCE: x.png; is it the table of another",
        ),
        (
            "image,action\ntrain/red/000.png,redd\n",
            "TABLE, line 2: the action 'redd' is no class of SOURCE: did you mean",
        ),
        ("picture,action\n", "TABLE has no column image: its first line has 'picture', 'action'"),
        ("", "TABLE has no column image and no column action: its first line has nothing"),
        ("\0\0", "TABLE cannot be read as a table: it holds binary data"),
    ],
)
@pytest.mark.parametrize(("command", "key"), [("train", "relabel"), ("audit", "exclude")])
def test_a_table_that_does_not_fit_is_one_line(jaxtl, config_file, pictures, tmp_path, lines, message, command, key):
    table = tmp_path / "mine.csv"
    table.write_text(lines)
    flags = (f"--config.data.source=folder:{pictures}", f"--config.data.{key}={table}")
    status, _, err = jaxtl(command, f"--config={config_file}", "--workdir=new", *flags)
    expected = message.replace("TABLE", str(table)).replace("SOURCE", f"folder:{pictures}")
    assert (status, err.splitlines()[0].startswith(f"error: {expected}")) == (1, True), err
    assert err.splitlines()[1:] == [f"(set with --config.data.{key})"]
    assert not (tmp_path / "new").exists()


def test_what_a_person_wrote_is_not_written_over(jaxtl, config_file, spoilt, tmp_path):
    assert audit(jaxtl, config_file, f"folder:{spoilt}")[0] == 0
    assert audit(jaxtl, config_file, f"folder:{spoilt}")[0] == 0
    filled = fill_in(tmp_path / "audit", {"train/red/bad.png": "exclude"})
    before = filled.read_bytes()
    status, _, err = audit(jaxtl, config_file, f"folder:{spoilt}")
    assert status == 1
    assert "audit.csv has 1 actions, which another audit there would lose" in err
    assert filled.read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "audit.html").write_text("my page")
    status, _, err = audit(jaxtl, config_file, f"folder:{spoilt}", workdir="mine")
    assert (status, "holds an audit.html that no audit wrote" in err) == (1, True)


def test_a_set_too_small_for_a_run_is_audited_all_the_same(jaxtl, config_file, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "few" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "few" / name / "1.png")
    status, out, err = audit(jaxtl, config_file, f"folder:{tmp_path / 'few'}")
    assert (status, err) == (0, "")
    assert "the splits are those of the source, since a run could not begin" in out
    assert [row["problem"] for row in table_of(tmp_path / "audit")] == ["conflicting labels"] * 2 + ["blank"] * 2


def test_weights_that_cannot_be_opened_are_an_error_with_the_way_without(jaxtl, config_file, pictures, tmp_path):
    status, _, err = audit(jaxtl, config_file, f"folder:{pictures}", "--config.model.weights=none.safetensors")
    assert status == 1
    assert 'To audit the images alone, without features: --config.model.weights=""' in err


def test_without_cleanlab_it_says_how_to_install_it(plain, jaxtl, config_file, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(wrong_labels, "is_installed", lambda: False)
    weights = f"--config.model.weights=run:{plain / 'run'}"
    status, out, err = audit(jaxtl, config_file, f"folder:{pictures}", weights)
    assert (status, err) == (0, "")
    note = "wrong labels are not looked for, since cleanlab is not installed: pip install -e '.[audit]'"
    assert out.splitlines()[0] == note
    assert note in json.loads((tmp_path / "audit" / "audit.json").read_text())["notes"]


def test_wrong_labels_by_the_features_of_a_run(plain, jaxtl, config_file, pictures, tmp_path):
    pytest.importorskip("cleanlab", reason="the extra audit is not installed")
    for i in range(3):
        (pictures / "train" / "red" / f"00{i}.png").rename(pictures / "train" / "green" / f"moved{i}.png")
    # Of one colour, and called by another: a blank image is of no class, so no label is suggested for it.
    Image.new("RGB", (24, 20), (220, 0, 0)).save(pictures / "train" / "blue" / "blank.png")
    weights = f"--config.model.weights=run:{plain / 'run'}"
    status, _, err = audit(jaxtl, config_file, f"folder:{pictures}", weights)
    assert (status, err) == (0, "")
    wrong = {row["image"]: row["suggestion"] for row in table_of(tmp_path / "audit") if row["problem"] == "wrong label"}
    # Of so few images a probe may hold one of the three for what it is called.
    assert len(wrong) >= 2
    assert wrong.items() <= {f"train/green/moved{i}.png": "red" for i in range(3)}.items()


VARIANTS = (
    lambda image: image,
    lambda image: image.resize((image.width * 3 // 4, image.height * 3 // 4)),
    lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    ImageOps.mirror,
)


@pytest.mark.slow
def test_flowers_with_flipped_labels_duplicates_and_leaks(shared, tmp_path):
    """8 % of the labels are flipped, 20 images are in train again and 10 of test, changed in several ways."""
    pytest.importorskip("cleanlab", reason="the extra audit is not installed")
    paths = sorted((shared / "datasets" / "oxford_flowers12").glob("*/*/*.jpg"))
    rng = np.random.default_rng(0)
    labels = [path.parent.name for path in paths]
    classes = sorted(set(labels))
    flipped = rng.choice(len(paths), round(0.08 * len(paths)), replace=False)
    for i in flipped:
        labels[i] = classes[(classes.index(labels[i]) + rng.integers(1, 12)) % 12]
    rows = [[str(path), label, path.parent.parent.name] for path, label in zip(paths, labels, strict=True)]
    clean = [i for i in range(len(paths)) if i not in set(flipped.tolist())]
    sides = {side: [i for i in clean if rows[i][2] == side] for side in ("train", "test")}
    planted = [*rng.choice(sides["train"], 20, replace=False), *rng.choice(sides["test"], 10, replace=False)]
    for k, i in enumerate(planted):
        path = tmp_path / f"planted{k:02}.jpg"
        if k % 5 == 4:
            shutil.copy(paths[i], path)
        else:
            VARIANTS[k % 5](Image.open(paths[i]).convert("RGB")).save(path, quality=60)
        rows.append([str(path), labels[i], "train"])
    with open(tmp_path / "flowers.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "label", "split"], *rows])

    config = default()
    config.data.source = f"csv:{tmp_path / 'flowers.csv'}"
    config.model.name = "vit_ti16"
    weights = shared / "weights" / "deit_tiny_imagenet1k" / "deit_tiny_patch16_224.safetensors"
    config.model.weights = str(weights)
    config.train.epochs = 1.0
    found = audit_source(config, tmp_path / "audit")
    names = found.audited.images.names
    wrong = [names[f.index] for f in found.findings if f.problem == "wrong label"]
    truth = {str(paths[i]) for i in flipped}
    assert len(set(wrong[: int(1.5 * len(truth))]) & truth) >= 0.8 * len(truth)
    alike = {names[f.index] for f in found.findings if f.other >= 0 and f.problem != "similar"}
    leaks = {names[f.index] for f in found.findings if f.problem in ("leak", "conflicting labels")}
    for k, i in enumerate(planted):
        # Of the two the one in val stays, where names decide that one of them is there.
        both = {str(paths[i]), str(tmp_path / f"planted{k:02}.jpg")}
        assert both & (leaks if k >= 20 else alike), both
