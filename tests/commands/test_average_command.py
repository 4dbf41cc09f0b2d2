import json

import jax
import numpy as np
import pytest
from put_together import save, shifted, variant

from jaxtl.checkpoints.manager import read_best


@pytest.fixture
def runs(plain, tmp_path):
    return [variant(plain / "run", tmp_path / name, shifted(seed)) for seed, name in enumerate("ab")]


def read(workdir, name):
    return json.loads((workdir / name).read_text())


def test_the_mean_is_a_run_that_predict_and_compare_know(runs, jaxtl, tmp_path, pictures):
    soup = tmp_path / "soup"
    status, printed, told = jaxtl("average", *runs, "--by=uniform", f"--workdir={soup}")
    assert (status, told) == (0, "")
    step, mean = read_best(soup)
    parts = [read_best(run)[1] for run in runs]
    jax.tree.map(lambda m, a, b: np.testing.assert_allclose(m, (a + b) / 2, rtol=1e-5, atol=1e-6), mean, *parts)
    results = read(soup, "results.json")
    assert (step, results["best_step"], results["average"]["weights"]) == (12, 12, {"a": 0.5, "b": 0.5})
    assert results["command"] == f"python -m jaxtl.main average {runs[0]} {runs[1]} --by=uniform --workdir=NEW"
    for name in ("config.json", "model.json", "inputs.json"):
        assert read(soup, name) == read(runs[0], name)
    assert read(soup, "weights.json")["location"] == f"average by uniform of {runs[0]}, {runs[1]}"
    assert {"val_logits", "test_logits"} <= set(np.load(soup / "predictions.npz"))
    assert " on test: accuracy" in printed
    status, line, _ = jaxtl("predict", f"--workdir={soup}", "--calibrated", pictures / "test" / "red" / "100.png")
    assert status == 0
    assert json.loads(line)["class"] in ("red", "green", "blue")
    # As any finished run, it says so when it is started again.
    again = jaxtl(f"--config={soup / 'config.json'}", f"--workdir={soup}")
    assert (again[0], again[2]) == (0, "")
    assert "is finished already" in again[1]


def test_a_greedy_soup_leaves_out_what_harms_it(plain, runs, jaxtl, tmp_path):
    ruined = variant(plain / "run", tmp_path / "ruined", shifted(9, scale=5.0))
    status, printed, _ = jaxtl("average", ruined, runs[0], plain / "run", f"--workdir={tmp_path / 'soup'}")
    assert status == 0
    found = read(tmp_path / "soup", "results.json")
    assert found["average"]["weights"]["ruined"] == 0
    assert found["val"]["loss"] <= min(each["loss"] for each in found["average"]["alone"].values()) + 1e-6
    assert "weights   0 ruined" in printed


@pytest.mark.slow
def test_wise_ft_goes_from_one_run_to_another_and_draws_it(plain, runs, jaxtl, tmp_path):
    out = tmp_path / "wise"
    assert jaxtl("average", runs[0], plain / "run", "--by=wise", f"--workdir={out}")[0] == 0
    found = read(out, "results.json")["average"]
    assert [point["alpha"] for point in found["sweep"]] == [round(0.1 * i, 1) for i in range(11)]
    best = max(found["sweep"], key=lambda point: (point["accuracy"], -point["loss"], point["alpha"]))
    assert found["weights"]["run"] == best["alpha"]
    assert (out / "wise.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_checkpoints_of_one_run_are_averaged(plain, jaxtl, tmp_path):
    run = variant(plain / "run", tmp_path / "run", shifted(0))
    parts = [read_best(variant(plain / "run", tmp_path / name, shifted(i)))[1] for i, name in enumerate("cd")]
    save(run, dict(zip((13, 14), parts, strict=True)))
    assert jaxtl("average", run, "--by=checkpoints", f"--workdir={tmp_path / 'mean'}")[0] == 0
    found = read(tmp_path / "mean", "results.json")["average"]["weights"]
    assert found == {"run step 13": 0.5, "run step 14": 0.5}


@pytest.mark.parametrize(
    ("names", "by", "told"),
    [
        (["a"], "uniform", "--by=uniform takes two runs or more: 1 are given."),
        (["a", "b"], "checkpoints", "--by=checkpoints takes one run: 2 are given."),
        (["a", "none"], "greedy", "there is no folder none: give the workdirs of runs."),
        (["a", "other"], "uniform", "a and other are different networks (vit_petals"),
        (["a", "b"], "a", ""),
        (
            ["a", "both"],
            "uniform",
            "both is an ensemble, and an ensemble has no weights of one network to average: give runs",
        ),
        (["a"], "checkpoints", "a has kept one checkpoint only, of step 12"),
        (["a"], "wise", "a began with no weights, so there is nothing to interpolate from"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_and_nothing_is_written(runs, jaxtl, tmp_path, names, by, told):
    variant(runs[0], tmp_path / "other", shifted(3))
    facts = read(runs[0], "model.json")
    (tmp_path / "other" / "model.json").write_text(json.dumps({**facts, "model": facts["model"] + ",mlp_width=20"}))
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "ensemble.json").write_text("{}")
    status, _, error = jaxtl("average", *names, f"--by={by}", f"--workdir={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
    if not told:
        assert status == 2
        return
    assert status == 1
    assert error.startswith(f"error: {told}")
    assert error.count("\n") == 1
