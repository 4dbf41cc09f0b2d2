import html.parser
import re

import numpy as np
import pytest
import yaml

from jaxtl.evaluate.predictions import Predictions
from jaxtl.report.facts import Facts, classified
from jaxtl.report.model_card import model_card
from jaxtl.report.run_page import markdown, run_page


class Parser(html.parser.HTMLParser):
    """Sees that each element is closed where it should be, and gathers what a page has."""

    EMPTY = frozenset({"meta", "link", "img", "br", "use", "path", "image"})

    def __init__(self, text):
        super().__init__()
        self.open, self.images = [], []
        self.ids, self.links, self.addresses, self.attributes = set(), set(), set(), set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.attributes |= attributes.keys()
        if tag not in self.EMPTY:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.add(attributes["id"])
        if tag == "a":
            self.links.add(attributes["href"])
        if tag == "img":
            self.images.append(attributes["alt"])
        self.addresses |= {attributes[name] for name in ("src", "href", "xlink:href") if attributes.get(name)}

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def check(page):
    """Sees that a page is sound, needs nothing from elsewhere, and that its links lead somewhere."""
    parser = Parser(page)
    assert {link.removeprefix("#") for link in parser.links} <= parser.ids
    assert all(address.startswith(("#", "data:")) for address in parser.addresses)
    assert "{{" not in page
    return parser


def test_a_page_shows_metrics_confusion_and_mistakes(facts):
    labels = np.array([0, 0, 1, 1])
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.5, 0.0]])
    page = run_page(facts(2, logits=logits, labels=labels), {})
    parser = check(page)
    assert "<dd>50.0 %</dd>" in page
    assert "95 %: 50.0 % to 75.0 %" in page
    # 1 / (1 + exp(-1)) of the wrong class, and 1 / (1 + exp(-0.5)).
    assert re.findall(r"([\d.]+ %), true class", page)[:2] == ["73.1 %", "62.2 %"]
    assert "image 1: class 0, predicted class 1" in parser.images
    assert {"summary", "classes", "confusion", "mistakes", "uncertain", "curves", "repeat"} <= parser.ids
    assert "data" not in parser.ids


@pytest.mark.slow
def test_102_classes_and_10000_images_stay_small(facts):
    page = run_page(facts(102, 10_000), {})
    check(page)
    assert len(page.encode()) < 5_000_000


def test_a_test_set_without_some_classes(facts):
    page = run_page(facts(4, labels=np.array([0, 1, 0, 1])), {})
    check(page)
    rows = re.findall(r'<tr><th scope="row">class (\d)</th><td class="n" data-value="(\d)">', page)
    assert sorted(rows[:2]) == [("0", "2"), ("1", "2")]
    assert sorted(rows[2:]) == [("2", "0"), ("3", "0")]


def test_two_classes_with_one_logit(facts):
    page = run_page(facts(2, logits=np.array([[1.0], [-2.0], [0.5]]), labels=np.array([1, 0, 0])), {})
    check(page)
    assert re.findall(r"([\d.]+ %), true class ([\d.]+ %)", page)[0] == ("62.2 %", "37.8 %")


def test_without_images_there_are_no_pictures(facts):
    page = run_page(facts(picture=False), {})
    assert check(page).images == []
    assert 'id="mistakes"' in page


def test_a_run_that_has_only_begun():
    begun = Facts("begun", "runs/begun", "training", model={"model": "tiny"})
    page = run_page(begun, {})
    assert check(page).ids == {"content", "repeat"}
    assert "nothing measured yet" in page
    assert "<strong>This run has not finished</strong>" in page


def test_a_run_that_is_training_says_how_far_it_came(facts):
    lines = [{"step": 1200, "split": "val", "loss": 0.5, "accuracy": 0.875}]
    page = run_page(facts(results={}, predictions={}, state="training", lines=lines), {})
    assert "still training: 87.5 % on val at step 1,200" in page
    later = [*lines, {"step": 1300, "split": "train", "loss": 1.0}]
    text = markdown(facts(results={}, predictions={}, state="stopped", lines=later))
    assert "stopped at step 1,300, not finished: 87.5 % on val at step 1,200" in text


def test_names_cannot_put_anything_into_the_page(facts):
    bad = facts(2)
    names = ["<script>alert(1)</script>", 'a" onload="x']
    bad.results["classes"][:] = names
    bad.results["test"]["per_class"] = dict(zip(names, bad.results["test"]["per_class"].values(), strict=True))
    page = run_page(bad, {})
    assert "onload" not in check(page).attributes
    assert page.count("<script") == 1


def test_odd_names_of_classes_are_drawn_as_they_are(facts):
    names = ["$_$", "_bg", "a|b sans-serif", "US$ 1 A$"]
    odd = facts(4, 40)
    odd.results["classes"][:] = names
    odd.results["test"]["per_class"] = dict(zip(names, odd.results["test"]["per_class"].values(), strict=True))
    page = run_page(odd, {})
    check(page)
    for name in names:
        # On both axes of the confusion matrix, and in the legends of two charts.
        assert page.count(f"{name}</text>") == 4
    assert "a\\|b sans-serif" in markdown(odd)


def test_saturated_sigmoids_are_no_mistakes(facts):
    kept = Predictions(np.array(["x", "y"]), np.array([1, 0]), np.float16([[40, 45, 0], [3, -3, -3]]))
    found = classified(kept, sigmoid=True)
    assert found.probabilities[0, 0] == found.probabilities[0, 1] == 1
    assert found.predicted.tolist() == [1, 0]
    page = run_page(facts(3, predictions={"test": found}), {})
    assert 'id="mistakes"' not in page


def test_results_of_before_images_were_counted(facts):
    earlier = facts(3, results={"classes": ["a", "b", "c"], "val": {"accuracy": 0.5, "loss": 1.0}}, predictions={})
    assert "50.0 % of the images of val right" in run_page(earlier, {})
    assert "| images | – |" in markdown(earlier)


def test_an_evaluation_is_repeated_by_eval_and_spaces_are_quoted(facts):
    page = run_page(facts(state="evaluation", workdir="my runs/a"), {})
    assert "python -m jaxtl.main eval --config=&#39;my runs/a/config.json&#39; --workdir=NEW" in page


@pytest.mark.slow
def test_a_thousand_classes_are_drawn_in_seconds(facts):
    counts = {f"class {i}": 3 for i in range(1000)}
    data = {"source": "folder:photos", "splits": {"train": {"images": 3000, "per_class": counts}}, "notes": []}
    page = run_page(facts(1000, 2000, data=data), {})
    assert "mean of 200 classes of 1000" in page
    assert len(page.encode()) < 5_000_000


def test_what_was_noted_at_the_start_is_shown(facts):
    groups = [
        {"group": "stem", "parameters": 1000, "trainable": 0, "rates": [], "largest": [1000]},
        {"group": "head", "parameters": 2500, "trainable": 2500, "rates": [0.001, 0.002], "largest": [2500]},
    ]
    stages = [
        {"start": 0, "stop": 5, "rate": 1.0, "parameters": 9},
        {"start": 5, "stop": 20, "rate": 0.5, "parameters": 9},
    ]
    data = {
        "source": "folder:photos",
        "splits": {"train": {"images": 7, "per_class": {"class 0": 3, "class 1": 4}}},
        "notes": ["warning: 2 images are in train too"],
    }
    page = run_page(facts(2, groups={"groups": groups, "stages": stages}, data=data, environment={"jax": "1.2.3"}), {})
    check(page)
    for text in ("frozen", "0.001 to 0.002", "steps 6 to 20", "warning: 2 images are in train too", "1.2.3"):
        assert text in page


def test_the_markdown_has_a_row_for_each_metric(facts):
    text = markdown(facts(2, labels=np.array([0, 1]), logits=np.array([[1.0, 0.0], [1.0, 0.0]])))
    assert text.startswith("# a run\n\n50.0 % of 2 images of test right. tiny on `folder:photos`.\n")
    assert "| metric | test |\n| --- | ---: |\n| accuracy | 50.0 % (50.0 % to 75.0 %) |\n" in text
    assert "| images | 2 |\n" in text
    assert "Most confused: class 1 taken for class 0 (1)." in text


@pytest.mark.parametrize("weights", [{}, {"location": "hf:org/name", "license": "mit"}])
def test_the_head_of_a_model_card_is_sound_yaml(facts, weights):
    made = facts(3, weights=weights, name='a "run": 1')
    head = yaml.safe_load(model_card(made).split("---")[1])
    assert head["pipeline_tag"] == "image-classification"
    assert head.get("license") == weights.get("license")
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "accuracy", "value": made.metrics["accuracy"]}
    assert head["model-index"][0]["name"] == 'a "run": 1'


def test_a_model_card_shows_no_folder_of_this_machine(facts):
    private = "/home/somebody/secret"
    data = {"source": f"folder:{private}/photos", "splits": {"train": {"images": 3}}}
    changed = {"data.source": f"folder:{private}/photos", "model.weights": f"{private}/petals.safetensors"}
    card = model_card(
        facts(weights={"location": f"{private}/petals.safetensors"}, data=data, changed=changed, source=data["source"])
    )
    assert "somebody" not in card
    assert "Started from `petals.safetensors`" in card
    assert "Data: `folder:photos`" in card


def test_a_model_card_of_a_run_without_results(facts):
    head = yaml.safe_load(model_card(facts(results={}, predictions={})).split("---")[1])
    assert "model-index" not in head


def test_what_calibration_does_is_told(facts):
    made = facts()
    assert "fitted to" not in run_page(made, {})
    one = {"before": {"ece": 0.062, "log_loss": 0.5}, "after": {"ece": 0.031, "log_loss": 0.4}}
    found = {"method": "temperature", "temperature": 1.3149, "note": "", "fitted_on": "val", "count": 73, "test": one}
    page = run_page(facts(results={**made.results, "calibration": found}), {})
    check(page)
    assert "A temperature of 1.31, fitted to 73 images of val, brings the calibration error on test from 6.2 %" in page
    assert "to 3.1 % and the log loss from 0.5 to 0.4." in page
    assert "Worse on test" not in page
    one["after"] = {"ece": 0.062, "log_loss": 0.6}
    page = run_page(facts(results={**made.results, "calibration": found}), {})
    check(page)
    assert "brings" not in page
    assert "changes the calibration error on test from 6.2 % to 6.2 % and the log loss from 0.5 to 0.6. <strong" in page
    assert "Worse on test</strong>: predict without <code>--calibrated</code>." in page


def test_an_interval_without_a_width_is_not_shown(facts):
    page = markdown(facts(labels=np.arange(6) % 3, logits=9.0 * np.eye(3)[np.arange(6) % 3]))
    assert "| balanced accuracy | 100.0 % |" in page
    assert "| accuracy | 100.0 % (50.0 % to 75.0 %) |" in page


def test_an_evaluation_names_the_split_that_it_measured(facts):
    made = facts()
    evaluation = facts(state="evaluation", results={**made.results, "split": "train", "trained_on": 12})
    page, text = run_page(evaluation, {}), markdown(evaluation)
    check(page)
    for found in (page, text):
        assert "of 12 images of train right" in found
        assert " of test" not in found
        assert "Of these images the weights were trained on 12" in found
    assert "| metric | train |" in text
    assert "trained on 12" not in run_page(made, {})


LABELS, LOGITS = [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], [[2, -1, -1], [-1, 3, -2], [-3, -1, -1], [1, 1, -1]]


def test_a_page_of_several_labels(several_facts):
    page = run_page(several_facts(LABELS, LOGITS), {})
    parser = check(page)
    assert "50.0 % of 4 images of test with all labels right, mAP 91.7 %" in page
    assert ">subset accuracy<" in page
    assert {"summary", "classes", "mistakes", "curves"} <= parser.ids
    assert not {"confusion", "uncertain"} & parser.ids
    # Wrong are the second image, and the last by a smaller loss.
    assert [name for name in parser.images if name.startswith("image")] == [
        "image 3: label 1, predicted label 0, label 1",
        "image 1: label 0, label 1, predicted label 1",
    ]
    losses = [np.logaddexp(0, row) @ [1, 1, 1] - np.dot(row, label) for row, label in zip(LOGITS, LABELS, strict=True)]
    assert [float(text) for text in re.findall(r"loss ([\d.]+)<br>", page)] == [
        pytest.approx(losses[3], abs=0.01),
        pytest.approx(losses[1], abs=0.01),
    ]
    assert "threshold</button>" not in page


def test_a_page_of_several_labels_with_thresholds(several_facts):
    # At these the second image is right too, and the last as wrong as before; no image has no label predicted wrongly.
    facts = several_facts(LABELS, LOGITS, thresholds=[0.2, 0.5, 0.99])
    page = run_page(facts, {})
    check(page)
    assert "threshold</button>" in page
    assert 'data-value="0.2">20.0 %' in page
    assert "subset accuracy, at thresholds chosen on val" in page
    assert "75.0 %" in markdown(facts)
    card = model_card(facts)
    assert "to say which of 3 labels an image has: label 0" in card
    assert yaml.safe_load(card.split("---")[1])["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5


def test_a_page_of_several_labels_that_nobody_has(several_facts):
    check(run_page(several_facts([[0, 0], [0, 0]], [[-1, -1], [-1, -1]]), {}))
    facts = several_facts([[0, 0], [1, 0]], [[-1, -1], [-1, 1]])
    page = run_page(facts, {})
    check(page)
    assert "label 1" in page
