from jaxtl.experiment.fold_table import few_results, lines_of, share_in_words


def estimate(mean, interval):
    return {"mean": mean, "std": 0.1, "interval": interval, "folds": 4}


def test_metrics_classes_and_folds_in_lines():
    share = estimate(0.9, [0.815, 0.985])
    results = {
        "folds": 2,
        "repeats": 2,
        "pool": "all",
        "trained": "runs",
        "metrics": {
            **dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "ece"), share),
            "log_loss": estimate(0.5, [0.25, 0.75]),
        },
        "per_class": {
            "ant": {"count": 12, "recall": share, "precision": share, "f1": {**share, "interval": None}},
            "bee": {"count": 0, "recall": None, "precision": None, "f1": None},
        },
        "per_fold": [
            {"repeat": repeat, "fold": fold, "count": 6, "accuracy": 0.25 * (repeat + fold)}
            for repeat in (1, 2)
            for fold in (1, 2)
        ],
    }
    lines = lines_of(results)
    assert lines[0] == "2 folds x 2 repeats of all (12 images), runs"
    assert lines[2] == "accuracy            90.0 %  (82 to 98)"
    assert lines[5] == "log loss           0.5000  (0.250 to 0.750)"
    assert " ".join(lines[9].split()) == "ant 12 90.0 % (82 to 98) 90.0 % (82 to 98) 90.0 %"
    assert " ".join(lines[10].split()) == "bee 0 - - -"
    assert lines[-2:] == ["folds of repeat 1  accuracy 50.0  75.0 %", "folds of repeat 2  accuracy 75.0  100.0 %"]


def test_what_rests_on_few_results_is_said():
    folds = [{"fold": number} for number in (1, 2, 3, 4)]
    assert few_results({"per_fold": folds[:2]}).startswith("the intervals rest on 2 results only, the folds: more")
    assert few_results({"per_fold": folds}) == ""


def test_folds_that_agree_have_no_interval():
    assert share_in_words(estimate(0.75, [0.75, 0.75])) == " 75.0 %"
