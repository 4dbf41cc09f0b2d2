"""Members and ways of an ensemble beside each other: metrics, paired differences, and whether there is a gain."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl import data
from jaxtl.deploy.ensemble import Network
from jaxtl.evaluate.alignment import Aligned
from jaxtl.evaluate.combining import FITTED, Combination
from jaxtl.evaluate.details import judge
from jaxtl.experiment.comparing import Comparison, Run, metrics_of, pair
from jaxtl.experiment.comparison_tables import Cell, Table, tests_to_json, to_markdown
from jaxtl.experiment.gain import table_lines
from jaxtl.experiment.verdicts import gains


@dataclass(frozen=True)
class Candidates:
    """What is put beside each other on a split.

    Attributes:
      members: name -> logits [N, C] of each run, of the view of evaluation alone.
      viewed: the same of all its views; {} where there is one view.
      ways: each way -> logits [N, C] of the ensemble.
    """

    members: Mapping[str, np.ndarray]
    viewed: Mapping[str, np.ndarray]
    ways: Mapping[str, np.ndarray]

    def rows(self) -> dict[str, np.ndarray]:
        """Returns all of them by what tables call them, in their order."""
        ways = {_title(way): logits for way, logits in self.ways.items()}
        return {**self.members, **{f"{name}, all views": logits for name, logits in self.viewed.items()}, **ways}


def _title(way: str) -> str:
    return f"ensemble by {way}"


def make_candidates(networks: Sequence[Network], logits: np.ndarray, fitted: Mapping[str, Combination]) -> Candidates:
    """Returns what the logits [M, N, V, C] of networks and their views come to."""
    means = logits.mean(2)
    return Candidates(
        members={network.name: logits[i, :, 0] for i, network in enumerate(networks)},
        viewed={network.name: means[i] for i, network in enumerate(networks)} if logits.shape[2] > 1 else {},
        ways={way: combination(means) for way, combination in fitted.items()},
    )


def compare_candidates(
    candidates: Mapping[str, Candidates],
    splits: Mapping[str, data.Dataset],
    by: str,
    fitted: Mapping[str, Combination],
) -> tuple[list[str], dict[str, Any]]:
    """Returns tables and sentences, in lines, and what they say as plain values.

    Differences are from the member with the least loss on val; they are those on test, or without one on val.

    Args:
      candidates: of "val", and of "test" where there is one.
      splits: the same splits.
      by: the way that the ensemble does.
      fitted: all ways, as they were fitted to val.
    """
    split = "test" if "test" in splits else "val"
    on_val = _losses_on_val(candidates["val"], splits["val"], fitted)
    best = min(candidates["val"].members, key=lambda name: on_val[name]["log_loss"])
    found = candidates[split].rows()
    judged = {
        name: judge(splits[split].labels, found[name]) for name in (best, *(each for each in found if each != best))
    }
    metrics = {name: metrics_of(each) for name, each in judged.items()}
    names = [str(name) for name in splits[split].names]
    paired = pair(Aligned(splits[split].classes, names, judged, dict.fromkeys(judged, 0)))
    runs = [Run(name, Path(), {}, {split: metrics[name]}, [], [split]) for name in judged]
    notes = [f"{best} is the member with the least loss on val: the others are compared with it"]
    in_sample = [way for way in FITTED if way in fitted]
    if split == "val":
        notes.append(f"fitted to these images, so that their metrics are in-sample, too good: {', '.join(in_sample)}")
    notes += _harm(on_val, best)
    if by in FITTED:
        notes.append(
            "this ensemble was fitted to val: its metrics, calibration and operating points there are in-sample"
        )
    comparison = Comparison(runs, split, metrics, paired, {}, notes)
    said = gains(comparison, [name for name in found if name not in candidates[split].members])
    mine = _title(by)
    lines = [
        *_lines_on_val(on_val, len(splits["val"])),
        *table_lines(comparison),
        *(line.replace(f"{mine} ", f"{mine} (this one) ") for line in said),
    ]
    rows = {name: {"metrics": metrics[name]} for name in judged}
    for name, differences in paired.differences.items():
        rows[name]["differences"] = {key: asdict(each) for key, each in differences.items()}
        rows[name] |= tests_to_json(paired, name)
    return lines, {"split": split, "baseline": best, "rows": rows, "val": on_val}


def _losses_on_val(
    candidates: Candidates, val: data.Dataset, fitted: Mapping[str, Combination]
) -> dict[str, dict[str, Any]]:
    """Returns the log loss of each on val, and where it was fitted there, that on images it was not fitted to."""
    found: dict[str, dict[str, Any]] = {
        name: {"log_loss": float(judge(val.labels, logits).log_losses.mean())}
        for name, logits in candidates.rows().items()
    }
    for way, combination in fitted.items():
        if way in FITTED:
            found[_title(way)] |= {"in_sample": True, "cross_validated_log_loss": combination.cross_validated}
    return found


def _lines_on_val(on_val: Mapping[str, Mapping[str, Any]], count: int) -> list[str]:
    rows = []
    for name, of in on_val.items():
        unseen = of.get("cross_validated_log_loss")
        told = f"{of['log_loss']:.4f}" + ", in-sample" * ("in_sample" in of)
        rows.append([Cell(name), Cell(told), Cell("–" if unseen is None else f"{unseen:.4f}")])
    title = f"Log loss on the {count:,} images of val, and cross-validated, where a way is fitted to them"
    return ["", f"{title}:", "", to_markdown(Table(["", "log loss", "cross-validated"], rows, [False, True, True]))]


def _harm(on_val: Mapping[str, Mapping[str, Any]], best: str) -> list[str]:
    """Returns a sentence on each way that is worse than the best member on images that it was not fitted to."""
    least = on_val[best]["log_loss"]
    return [
        f"cross-validated on val, {name} has a log loss of {of['cross_validated_log_loss']:.4f}, more than the "
        f"{least:.4f} of {best}: it may do harm"
        for name, of in on_val.items()
        if (of.get("cross_validated_log_loss") or 0) > least
    ]
