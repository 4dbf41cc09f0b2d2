from compared import write_run

from jaxtl.experiment.gain import gain_lines


def test_runs_are_compared_with_the_first(tmp_path):
    runs = [write_run(tmp_path / name, seed=seed) for seed, name in enumerate("abc")]
    lines = gain_lines(runs[:2], runs[2])
    assert any(line.startswith("Differences from a on the same 30 images") for line in lines)
    assert " c against a on test: " in lines[-1]
