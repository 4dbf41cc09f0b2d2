"""From the logits of an image to what is said of it: its class, or none, with probabilities as they were asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxtl.evaluate.details import to_probabilities
from jaxtl.evaluate.operating_points import expected_costs
from jaxtl.evaluate.predictions import as_half
from jaxtl.evaluate.rejection import energy
from jaxtl.evaluate.scaling import Scaling


@dataclass(frozen=True)
class Judge:
    """Says what an image is by its logits.

    Attributes:
      classes: the names of the C classes.
      sigmoid: whether each class has a probability of its own.
      scaling: what makes the probabilities calibrated; None for those of the model as it was trained.
      reject_below: the least probability of a class; images whose likeliest has less are of none.
      rule: the rule of operating_points.json, chosen with the same scaling; None for the likeliest class. It
        decides by logits rounded to float16, as those were that it was chosen by.
      folded: whether the weights have the calibration in them, so that the logits are calibrated already.
      top: how many of the likeliest classes are given.
    """

    classes: Sequence[str]
    sigmoid: bool = False
    scaling: Scaling | None = None
    reject_below: float | None = None
    rule: Mapping[str, Any] | None = None
    folded: bool = False
    top: int = 5

    def __call__(self, logits: np.ndarray) -> dict[str, Any]:
        """Returns what is said of an image with logits [C], ready for JSON.

        >>> said = Judge(("cat", "dog"), reject_below=0.9)(np.array([0.0, 1.0]))
        >>> said["class"], said["probability"], said["rejected"]
        (None, 0.731059, 'its probability is below 0.9')

        Returns:
          {"class", "probability", "top5": [{"class", "probability"}, ...]}, or "top3" for a top of 3. "class" is None
          where the image is of no class; "probability" is that of the class, or else of the likeliest, and "rejected"
          says why. "calibrated" and "operating_point" are there where they apply, and what else the rule says.
        """
        probabilities, order = self._probabilities(logits)
        if self.rule is None:
            decided, more = self._decide(probabilities, logits, order)
        else:
            # Its cuts are scores of logits that were kept in float16: the image that set one would fall below it.
            half = as_half(logits[None])[0]
            rounded, by_rounded = self._probabilities(half)
            decided, more = self._decide(rounded, half, by_rounded)
        shown = order[0] if decided is None else decided
        return {
            "class": None if decided is None else self.classes[decided],
            "probability": round(float(probabilities[shown]), 6),
            f"top{self.top}": [
                {"class": self.classes[i], "probability": round(float(probabilities[i]), 6)} for i in order[: self.top]
            ],
            **({} if self.scaling is None and not self.folded else {"calibrated": True}),
            **more,
        }

    def _probabilities(self, logits: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Returns the probabilities of the classes [C], and the classes, the likeliest first."""
        calibrated = logits if self.scaling is None else self.scaling.apply(logits)
        # By the logits: of two sigmoids that are both rounded to 1, one is the likelier all the same.
        order: list[int] = np.argsort(-calibrated, kind="stable").tolist()
        return to_probabilities(calibrated, sigmoid=self.sigmoid), order

    def _decide(
        self, probabilities: np.ndarray, logits: np.ndarray, order: Sequence[int]
    ) -> tuple[int | None, dict[str, Any]]:
        """Returns the class that is decided for, or None, and what is to be said besides; the likeliest come first."""
        rule, best = self.rule, order[0]
        if rule is None:
            if self.reject_below is None or probabilities[best] >= self.reject_below:
                return best, {}
            return None, {"rejected": f"its probability is below {self.reject_below:g}"}
        if rule["kind"] == "costs":
            expected = expected_costs(probabilities, np.array(rule["costs"]))
            decided = int(expected.argmin())
            return decided, {"operating_point": "least cost", "expected_cost": round(float(expected[decided]), 6)}
        point: dict[str, Any] = {"operating_point": f"{rule['kind']} {rule['wanted']:g}"}
        if "thresholds" in rule:
            cuts = [rule["thresholds"][name] for name in self.classes]
            above = [c for c in order if cuts[c] is not None and probabilities[c] >= cuts[c]]
            point["above"] = [self.classes[c] for c in above]
            return (above[0], point) if above else (None, {**point, "rejected": "no class reaches its threshold"})
        score = energy(logits, sigmoid=self.sigmoid) if rule["by"] == "energy" else probabilities[best]
        if score >= rule["threshold"]:
            return best, point
        return None, {**point, "rejected": f"its {rule['by']} is below {rule['threshold']:.4f}"}


@dataclass(frozen=True)
class LabelJudge:
    """Says which labels an image has by its logits, where it may have several, or none.

    Attributes:
      classes: the names of the C labels.
      thresholds: the least probability of each label [C].
      top: how many of the likeliest labels are given.
    """

    classes: Sequence[str]
    thresholds: Sequence[float]
    top: int = 5

    def __call__(self, logits: np.ndarray) -> dict[str, Any]:
        """Returns what is said of an image with logits [C], ready for JSON.

        >>> LabelJudge(("cat", "dog", "eel"), (0.5, 0.8, 0.5))(np.array([0.0, 1.0, -1.0]))["labels"]
        ['cat']

        Returns:
          {"labels": those at or above their thresholds, the likeliest first, "top5": [{"class", "probability",
          "threshold"}, ...]}.
        """
        probabilities = to_probabilities(logits, sigmoid=True)
        order = np.argsort(-np.asarray(logits), kind="stable").tolist()
        return {
            "labels": [self.classes[i] for i in order if probabilities[i] >= self.thresholds[i]],
            f"top{self.top}": [
                {
                    "class": self.classes[i],
                    "probability": round(float(probabilities[i]), 6),
                    "threshold": round(float(self.thresholds[i]), 6),
                }
                for i in order[: self.top]
            ],
        }
