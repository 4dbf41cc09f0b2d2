from jaxtl.report.together import members_of


def test_a_run_has_no_members():
    assert members_of({"val": {"accuracy": 1.0}}) is None


def test_members_of_a_mean_have_their_weights():
    found = members_of(
        {"average": {"by": "greedy", "weights": {"a": 1.0, "b": 0.0}, "alone": {
            "a": {"accuracy": 0.975, "loss": 0.25}, "b": {"accuracy": 0.5, "loss": 2.0}}}}
    )  # fmt: skip
    assert found.rows == [["a", "1", "97.5 %", "0.25"], ["b", "0", "50.0 %", "2"]]


def test_members_and_ways_of_an_ensemble_have_differences_with_intervals():
    difference = {"value": 0.0125, "interval": [-0.004, 0.03]}
    table = {"split": "test", "baseline": "a", "rows": {
        "a": {"metrics": {"accuracy": 0.9, "log_loss": 0.3}},
        "ensemble by vote": {"metrics": {"accuracy": 0.9125, "log_loss": 0.3125},
                             "differences": {"accuracy": difference, "log_loss": difference}},
    }}  # fmt: skip
    found = members_of({"ensemble": {"by": "vote", "table": table}})
    assert found.rows[0] == ["a", "90.0 %", "0.3", "–", "–"]
    assert found.rows[1][3:] == ["+1.2 (-0.4 to +3.0)", "+0.0125 (-0.0040 to +0.0300)"]
    assert "this ensemble goes by vote" in found.caption
