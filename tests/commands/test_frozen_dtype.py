"""Frozen parameters in bfloat16: metrics, checkpoints and exports are those of float32, to the bit."""

import json

import numpy as np
import pytest

from jaxtl.checkpoints.manager import read_best
from jaxtl.trees import flatten

FLAGS = ("--config.train.precision=bfloat16", "--config.finetune.unfreeze=1", "--config.train.steps=8")


@pytest.mark.slow
def test_a_run_is_the_same_to_the_bit_and_its_checkpoint_holds_float32(train, tmp_path):
    assert train(*FLAGS, workdir="wide")[0] == 0
    status, _, err = train(*FLAGS, "--config.finetune.frozen_dtype=bfloat16", workdir="narrow")
    assert (status, err) == (0, "")
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("wide", "narrow")]
    assert lines[0] == lines[1]
    (step, wide), (other, narrow) = (read_best(tmp_path / name) for name in ("wide", "narrow"))
    assert step == other
    wide, narrow = flatten(wide), flatten(narrow)
    assert wide.keys() == narrow.keys()
    for path in wide:
        np.testing.assert_array_equal(wide[path], narrow[path])
        assert narrow[path].dtype == np.float32
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("wide", "narrow")]
    assert results[0]["test"] == results[1]["test"]


def test_without_bfloat16_it_is_refused(train):
    status, _, err = train("--config.finetune.frozen_dtype=bfloat16")
    assert status == 1
    assert 'give it with train.precision "bfloat16"' in err
