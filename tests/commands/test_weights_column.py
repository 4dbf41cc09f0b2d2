"""A column of weights: how much each image counts in training."""

import re

import numpy as np
import pytest


def write(pictures, weight):
    """Writes a table of the pictures with their weights, or without where `weight` is None; returns its source."""
    rows = ["image,label,split" + ",weight" * (weight is not None)]
    for image in sorted(pictures.glob("*/*/*.png")):
        split, label, _ = image.relative_to(pictures).parts
        rows.append(f"{image.relative_to(pictures)},{label},{split}" + (f",{weight(label)}" if weight else ""))
    path = pictures / "table.csv"
    path.write_text("\n".join(rows))
    return f"--config.data.source=csv:{path}"


@pytest.fixture
def run(jaxtl, config_file, pictures, tmp_path):
    """Trains on such a table; returns the logits on test and what was printed."""

    def run(name, weight, *flags):
        workdir = tmp_path / name
        status, out, err = jaxtl(
            "train", f"--config={config_file}", f"--workdir={workdir}", write(pictures, weight), *flags
        )
        assert (status, err) == (0, "")
        with np.load(workdir / "predictions.npz") as arrays:
            return arrays["test_logits"], out

    return run


@pytest.mark.parametrize("flags", [(), ("--config.finetune.unfreeze=head",), ("--config.augment.mixup=0.5",)])
def test_equal_weights_are_none_and_others_move_what_is_predicted(run, flags):
    plain, _ = run("plain", None, *flags)
    equal, printed = run("equal", lambda label: 2, *flags)
    np.testing.assert_array_equal(equal, plain)
    assert "weighed   an image counts 1 to 1 times in training" in printed
    heavy, printed = run("heavy", lambda label: 10 if label == "red" else 1, *flags)
    assert re.search(r"^weighed   an image counts 0\.2\d+ to 2\.\d+ times in training$", printed, re.MULTILINE)
    assert (heavy != plain).any(1).all()
    if "--config.finetune.unfreeze=head" in flags:  # A convex loss: the class that counts more is seen more.
        red = 2  # Of blue, green and red.
        assert (heavy[:, red] - heavy.mean(1) > plain[:, red] - plain.mean(1)).mean() > 0.9


def test_weights_that_changed_are_other_data(run, jaxtl, config_file, pictures, tmp_path):
    run("first", lambda label: 1)
    source = write(pictures, lambda label: 2 if label == "red" else 1)
    status, out, err = jaxtl("train", f"--config={config_file}", f"--workdir={tmp_path / 'first'}", source)
    assert (status, err) == (0, "")
    assert re.search(r"since then .*train.* changed", out, re.DOTALL)


def test_a_weight_that_is_none_is_told_in_a_line(jaxtl, config_file, pictures, tmp_path):
    source = write(pictures, lambda label: "much" if label == "red" else 1)
    status, _, err = jaxtl("train", f"--config={config_file}", f"--workdir={tmp_path / 'run'}", source)
    assert status == 1
    assert "26 rows have a weight that is no positive number (lines" in err
    assert not (tmp_path / "run").exists()
