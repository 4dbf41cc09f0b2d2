"""The model card of a run, or of an export of it: the README of a repository of the Hugging Face hub."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtl.report.facts import Facts
from jaxtl.report.page import render
from jaxtl.report.run_page import summary


@dataclass(frozen=True)
class Exported:
    """An export that a card speaks of.

    Attributes:
      library: the program that opens it, "transformers" or "timm": the hub's name for it.
      place: where its reader finds it: "org/name" on the hub, or the name of a folder.
      pushed: whether that is a repository of the hub.
      calibrated: whether the calibration is folded into its head.
      notes: what the format says of itself.
    """

    library: str
    place: str
    pushed: bool = False
    calibrated: bool = False
    notes: Sequence[str] = ()


def model_card(facts: Facts, exported: Exported | None = None) -> str:
    """Returns a model card as the hub reads it: facts for its index in YAML, then words in Markdown.

    No folder of this machine is named: of a place, its name alone.

    Args:
      facts: of the run.
      exported: the export that the card lies beside; None for a card of the run itself.
    """
    values = summary(facts)
    location = facts.weights.get("location", "")
    named = location.removeprefix("hf:").partition("@")[0]
    base = "/".join(named.split("/")[:2]) if location.startswith("hf:") and "/" in named else ""
    return render(
        "model_card.md",
        {
            **values,
            "license": facts.weights.get("license", ""),
            "dataset_type": values["source"].partition(":")[2].rpartition("/")[2] or "images",
            "base_model": base,
            "exported": exported,
            "sigmoid": facts.several or facts.results.get("loss") == "binary",
        },
    )
