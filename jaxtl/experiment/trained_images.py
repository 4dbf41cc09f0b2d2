"""Which images a run has seen, and the runs that it began with: metrics on them are too good."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import data
from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.splits import open_splits


def training_splits(workdir: Path) -> list[dict[str, Any]]:
    """Returns which splits trained a run, the run that its weights come from, and so on, or the members of an ensemble.

    Returns:
      Of each the section "data" of its config, and whether splits were derived "by_class", ready for JSON. What is no
      longer there is left out, and so is what an ensemble did not note.
    """
    found, seen = [], set[Path]()
    try:
        if files.is_ensemble(workdir):
            members = files.read_json(workdir / files.ENSEMBLE)["members"]
            return [each for member in members for each in member.get("trained", ())]
        while workdir.resolve() not in seen:
            seen.add(workdir.resolve())
            values = config_lib.to_dict(config := files.run_config(workdir))
            found.append({"data": values["data"], "by_class": not files.began_earlier(workdir)})
            if not config.model.weights.startswith("run:"):
                break
            workdir = Path(config.model.weights.removeprefix("run:"))
    except UserError:  # The run that it began with is gone.
        pass
    return found


def count_trained(weights: str, source: data.Source, measured: data.Dataset) -> int:
    """Returns how many of the images that are measured trained the weights, as far as is known.

    Args:
      weights: as a config gives them; of others than run:WORKDIR nothing is known.
      source: of the images; those of another source have other names.
      measured: some of its images.
    """
    if not weights.startswith("run:"):
        return 0
    return len(_names(training_splits(Path(weights.removeprefix("run:"))), source) & set(map(str, measured.names)))


def first_weights(weights: str) -> str:
    """Returns the weights that the first of a line of runs began with; those given where they are of no run."""
    seen = set[str]()
    while weights.startswith("run:") and weights not in seen:
        seen.add(weights)
        path = Path(weights.removeprefix("run:")) / "config.json"
        weights = files.run_config(path.parent).model.weights if path.exists() else ""
    return weights


def _names(splits: Sequence[dict[str, Any]], source: data.Source) -> set[str]:
    """Returns the names of the images of a source in the training splits."""
    names = set[str]()
    for each in splits:
        config = config_lib.from_dict({"data": each["data"]})
        if _place(config.data.source) != _place(source.uri):
            continue
        try:
            names |= set(map(str, open_splits(config, source, by_class=each["by_class"]).train.names))
        except UserError:  # The data have changed since: nobody knows.
            continue
    return names


def _place(uri: str) -> tuple[str, Path]:
    """Returns the kind of a source and where it lies, however its path is written."""
    kind, _, rest = uri.partition(":")
    return kind, Path(rest).resolve()
