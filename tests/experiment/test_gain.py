import pytest
from compared import write_run

from jaxtl.evaluate.paired import Difference
from jaxtl.experiment.gain import gain_lines, verdict


@pytest.mark.parametrize(
    ("accuracy", "loss", "word"),
    [
        ([0.001, 0.02], [-0.1, 0.1], "gain"),
        ([-0.01, 0.02], [-0.1, -0.01], "gain"),
        ([-0.01, 0.02], [-0.1, 0.1], "no gain"),
        ([-0.02, -0.01], [-0.1, 0.1], "no gain"),
        ([-0.02, -0.01], [-0.1, -0.05], "mixed"),
    ],
)
def test_a_gain_is_an_interval_on_one_side_of_zero(accuracy, loss, word):
    said = verdict("soup", "a", "test", {"accuracy": Difference(0, accuracy), "log_loss": Difference(0, loss)})
    assert said[:10].rstrip() == word
    assert "soup against a on test: accuracy +0.0 points" in said


def test_runs_are_compared_with_the_first(tmp_path):
    runs = [write_run(tmp_path / name, seed=seed) for seed, name in enumerate("abc")]
    lines = gain_lines(runs[:2], runs[2])
    assert any(line.startswith("Differences from a on the same 30 images") for line in lines)
    assert " c against a on test: " in lines[-1]
