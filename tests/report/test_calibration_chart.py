import re

import numpy as np

from jaxtl.evaluate.calibration import expected_calibration_error, reliability_bins
from jaxtl.evaluate.rejection import coverage_curve
from jaxtl.report import calibration_chart
from jaxtl.report.calibration_chart import coverage_chart, reliability_chart


def draw(power, seed=0):
    rng = np.random.default_rng(seed)
    confidences = rng.uniform(0.3, 1, 200)
    return confidences, rng.uniform(size=200) < confidences**power


def label_of(svg):
    (text,) = re.findall(r'aria-label="([^"]*)"', svg)
    return text


def test_a_reliability_diagram_before_and_after():
    before, after = draw(2), draw(1)
    svg = reliability_chart(reliability_bins(*before), reliability_bins(*after))
    assert svg.startswith("<svg")
    numbers = [f"{100 * expected_calibration_error(*each):.1f} %" for each in (before, after)]
    assert label_of(svg) == (
        "Reliability diagram, accuracy against confidence: as trained the expected calibration error is "
        f"{numbers[0]}; calibrated the expected calibration error is {numbers[1]}."
    )
    for text in (f"as trained: ECE {numbers[0]}", f"calibrated: ECE {numbers[1]}", "confidence (%)"):
        assert text in svg
    assert svg == reliability_chart(reliability_bins(*before), reliability_bins(*after))
    alone = reliability_chart(reliability_bins(*before))
    assert "calibrated: ECE" not in alone


def test_one_image_in_one_bin_is_drawn():
    assert "ECE 10.0 %" in reliability_chart(reliability_bins(np.array([0.9]), np.array([True])))


def test_between_two_points_of_coverage_the_line_is_the_accuracy_that_is_told(monkeypatch):
    drawn = []
    monkeypatch.setattr(calibration_chart, "to_svg", lambda figure, label: drawn.append(figure) or "")
    curve = coverage_curve(np.array([0.9, 0.8, 0.8, 0.5]), np.array([True, True, False, False]))
    coverage_chart({"confidence": curve})
    (line,) = drawn[0].axes[0].lines
    x, y = (np.array(each) for each in line.get_data())
    assert line.get_drawstyle() == "steps-pre"
    assert (x.tolist(), y.round().tolist()) == ([25, 75, 100], [100, 67, 50])
    for share in (0.5, 0.9):
        place = np.searchsorted(x, 100 * share)  # With steps-pre a point's height goes back to the one before.
        assert y[place] == 100 * curve.accuracy_at(share)


def test_accuracy_against_coverage():
    confidences, correct = draw(1)
    curves = {"confidence": coverage_curve(confidences, correct), "energy": coverage_curve(-confidences, correct)}
    svg = coverage_chart(curves)
    kept = np.argsort(-confidences)[:160]
    assert f"by confidence {100 * correct[kept].mean():.1f} % are right of the 80 % that are kept first" in label_of(
        svg
    )
    for name, curve in curves.items():
        assert f"{name}: AURC {curve.aurc:.3g}" in svg
    assert svg == coverage_chart(curves)
