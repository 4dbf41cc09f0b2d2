"""What a run needs before its first step: its workdir is claimed, and other data, weights or shapes are refused."""

import dataclasses

import numpy as np
import pytest
import tiny

from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.start import start_run
from jaxtl.pretrained import LoadReport


def begun(workdir):
    """Makes the workdir one of a run that has saved a step."""
    (workdir / "checkpoints" / "3").mkdir(parents=True)


def report(**sha256):
    return LoadReport(
        location="w.safetensors",
        files=list(sha256),
        revision="",
        license="",
        format="safetensors",
        key_mapping="jaxtl",
        model="tiny",
        num_classes=3,
        classes=None,
        pixels=None,
        pixels_from="",
        head="kept",
        sha256={f"{name}.safetensors": digest for name, digest in sha256.items()},
    )


def test_a_new_workdir_is_claimed_and_images_come_into_memory(tmp_path):
    experiment = tiny.experiment(tiny.config(finetune__unfreeze="head"))
    read = []

    def from_disk(index):
        read.append(index)
        return np.full((4, 4, 3), index, np.uint8)

    started = start_run(tiny.with_split(experiment, "val", read=from_disk), tmp_path)
    assert set(read) == {0, 1, 2, 3, 4, 5}
    read.clear()
    assert started.splits.val.read(2)[0, 0].tolist() == [2, 2, 2]
    assert read == []
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {"config.json", "inputs.json", "model.json", "weight_decay.json"}
    assert "weights.json" not in written
    assert files.read_json(tmp_path / "model.json")["classes"] == ["red", "green", "blue"]
    assert files.read_json(tmp_path / "config.json")["optimizer"]["learning_rate"] == 0.1
    assert files.read_json(tmp_path / "inputs.json").keys() >= {"data.train", "data.val", "data.test"}


def test_notes_of_data_and_plan_and_the_report_are_told(tmp_path, capsys):
    experiment = tiny.experiment(tiny.config(finetune__unfreeze="body"))
    splits = dataclasses.replace(experiment.splits, notes=("a tenth of train validates",))
    loaded = dataclasses.replace(experiment, splits=splits, load_report=report(w="0123456789abcdef"))
    start_run(loaded, tmp_path)
    out = capsys.readouterr().out
    assert "w.safetensors" in out
    assert "a tenth of train validates\n" in out
    assert "finetune.unfreeze 'body' leaves out the head, which is new: it trains too\n" in out
    assert "35 of 51 parameters" in out
    assert files.read_json(tmp_path / "weights.json") == report(w="0123456789abcdef").to_json()
    assert files.read_json(tmp_path / "inputs.json")["weights w.safetensors"] == "0123456789abcdef"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"eval__batch_size": 7}, "eval.batch_size is 7, .*2 devices: give a multiple of 2, such as 8"),
        (
            {"augment__crop": "resize_crop", "augment__resize": 3},
            "augment.resize is 3, but the crop is 4 pixels: give more, or 0",
        ),
        (
            {"train__parallel": "pmap", "train__accumulate": 3},
            "train.batch_size 8 cannot be split into train.accumulate 3 parts on each of 2 devices: .* multiple of 6",
        ),
    ],
)
def test_shapes_that_would_fail_later_are_refused_before_anything_is_written(tmp_path, keys, message):
    with pytest.raises(UserError, match=message):
        start_run(tiny.experiment(tiny.config(**keys)), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keys", [{"augment__crop": "resize_crop", "augment__resize": 4}, {"eval__batch_size": 6}])
def test_the_last_shapes_that_fit_are_taken(tmp_path, keys):
    start_run(tiny.experiment(tiny.config(**keys)), tmp_path)


def test_a_penalty_that_fits_nothing_is_told_now(tmp_path):
    with pytest.raises(UserError, match=r"l2: 'boddy' fits no group and no parameter"):
        start_run(tiny.experiment(tiny.config(finetune__l2={"boddy": 0.1})), tmp_path)


def other_order(split):
    """Two examples of one class in each other's place: the labels stay."""
    return {"names": (split.names[3], *split.names[1:3], split.names[0], *split.names[4:])}


@pytest.mark.parametrize(
    "change",
    [
        lambda split: {"labels": np.roll(split.labels, 1)},
        lambda split: {"names": (*split.names[:-1], "another")},
        lambda split: {"classes": ("red", "green", "violet")},
        other_order,
    ],
    ids=["labels", "names", "classes", "order"],
)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_run_does_not_go_on_with_other_data(tmp_path, split, change):
    experiment = tiny.experiment(tiny.config())
    start_run(experiment, tmp_path)
    begun(tmp_path)
    start_run(tiny.experiment(tiny.config()), tmp_path)  # The same again are the same.
    other = tiny.with_split(experiment, split, **change(getattr(experiment.splits, split)))
    with pytest.raises(
        UserError, match=f"holds a run on other inputs:\n  {files.in_words(f'data.{split}')} changed\nGive"
    ):
        start_run(other, tmp_path)


def test_nor_without_its_test_split_nor_with_other_weights(tmp_path):
    experiment = dataclasses.replace(tiny.experiment(tiny.config()), load_report=report(w="1", x="2"))
    start_run(experiment, tmp_path)
    begun(tmp_path)
    for changed, what in (
        ({"splits": dataclasses.replace(experiment.splits, test=None)}, "the test images"),
        ({"load_report": report(w="1", x="3")}, "the weight file x.safetensors"),
        ({"load_report": report(w="1")}, "the weight file x.safetensors"),
        ({"load_report": None}, r"the weight file w.safetensors changed\n  the weight file x.safetensors"),
    ):
        with pytest.raises(UserError, match=f"other inputs:\n  {what} changed\nGive"):
            start_run(dataclasses.replace(experiment, **changed), tmp_path)


def test_nor_with_another_config(tmp_path):
    start_run(tiny.experiment(tiny.config()), tmp_path)
    begun(tmp_path)
    with pytest.raises(UserError, match=r"holds a run of another config:\n  train.seed: 0 -> 4\nGive"):
        start_run(tiny.experiment(tiny.config(train__seed=4)), tmp_path)


def test_names_that_are_no_unicode_are_told_apart_too(tmp_path):
    """A file name may be any bytes; Python shows those that are no text as surrogates."""
    experiment = tiny.experiment(tiny.config())
    digests = []
    for odd in ("\udcff", "\udcfe"):
        names = (*experiment.splits.val.names[:-1], odd)
        start_run(tiny.with_split(experiment, "val", names=names), tmp_path)
        digests.append(files.read_json(tmp_path / "inputs.json")["data.val"])
    assert digests[0] != digests[1]


def test_weight_decay_spares_what_it_spared_when_the_run_began(tmp_path):
    start_run(tiny.experiment(tiny.config()), tmp_path)
    experiment = tiny.experiment(tiny.config())
    plan = dataclasses.replace(experiment.plan, no_weight_decay=("stem/kernel",))
    later = dataclasses.replace(experiment, plan=plan)
    assert start_run(later, tmp_path).plan.no_weight_decay == ("stem/kernel",)  # Nothing was trained yet.
    begun(tmp_path)
    assert start_run(tiny.experiment(tiny.config()), tmp_path).plan.no_weight_decay == ("stem/kernel",)
    # A run from before this was noted spared nothing by its name.
    (tmp_path / "weight_decay.json").unlink()
    assert start_run(later, tmp_path).plan.no_weight_decay == ()


def test_a_run_does_not_go_on_with_other_pixels_or_another_function(tmp_path):
    """What a version reads from the same weights may change, and so may a preprocessor_config.json beside them."""
    experiment = tiny.experiment(tiny.config())
    start_run(experiment, tmp_path)
    facts = files.read_json(tmp_path / "model.json")
    pixels = dataclasses.replace(experiment.model.pixels, resize=5)
    other = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, pixels=pixels, epsilon=1e-6))
    start_run(other, tmp_path)  # Nothing was trained yet.
    start_run(experiment, tmp_path)
    begun(tmp_path)
    with pytest.raises(UserError) as error:
        start_run(other, tmp_path)
    assert str(error.value) == (
        f"--workdir={tmp_path} holds a run whose weights are read otherwise now, by this version of jaxtl or because "
        "of a file beside them:\n  epsilon: None -> 1e-06\n  pixels.resize: 4 -> 5\nGo on with the version and the "
        "files that the run was started with, or begin another one, in another --workdir. With "
        f"--config.model.weights=run:{tmp_path} it starts from what was learnt, as it was."
    )
    assert files.read_json(tmp_path / "model.json") == facts
    # A fact that was not kept then is no difference, and is kept from now on.
    del facts["epsilon"]
    files.write_json(tmp_path / "model.json", facts)
    start_run(experiment, tmp_path)
    assert "epsilon" in files.read_json(tmp_path / "model.json")
