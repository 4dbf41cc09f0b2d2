"""The load report: where weights come from and what became of each of their arrays."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jaxtl.models.key_mapping import COUNTERS
from jaxtl.pretrained.open import Weights


@dataclass
class LoadReport:
    """The account of one load; written to weights.json, printed as a short table.

    Attributes:
      location: as the user gave it.
      files: the names of the files.
      sha256: the digest of each file.
      revision: the commit of a hub repository, or the step of a run.
      license: what the hub's model card says.
      format: the file format.
      key_mapping: the convention of the names.
      model: the name of the model that the source says it is of.
      num_classes: the width of its head.
      classes: its class names.
      pixels: its pixel facts.
      pixels_from: where those come from.
      head: what became of its head, and why.
      loaded: leaves of the model that were filled, each with the arrays it comes "from" and its "shape".
      ones: leaves of the model that are 1 throughout, since that layer of the source has none: it only shifts.
      resized: leaves that were fitted, with the shapes before and after.
      dropped: arrays of the source that were left out, with their shapes.
      initialised: leaves of the model that got a fresh value, with their shapes.
      notes: what was completed or loaded otherwise than the name of the model alone says.
      contradicted: fields in which the model was asked to differ from what its weights imply.
    """

    location: str
    files: list[str]
    revision: str
    license: str
    format: str
    key_mapping: str
    model: str
    num_classes: int
    classes: list[str] | None
    pixels: dict[str, Any] | None
    pixels_from: str
    head: str
    sha256: dict[str, str] = field(default_factory=dict)
    loaded: dict[str, dict[str, Any]] = field(default_factory=dict)
    ones: dict[str, list[int]] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    initialised: dict[str, list[int]] = field(default_factory=dict)
    contradicted: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, weights: Weights, *, head: str) -> "LoadReport":
        """Starts the account of a source; what became of its arrays is added by the loading."""
        return cls(
            location=weights.location,
            files=[path.name for path in weights.files],
            revision=weights.revision,
            license=weights.license,
            format=weights.format,
            key_mapping=weights.key_mapping.name,
            model=weights.model,
            num_classes=weights.num_classes,
            classes=list(weights.classes) if weights.classes else None,
            pixels=weights.pixels.to_json() if weights.pixels else None,
            pixels_from=weights.pixels_from,
            head=head,
        )

    def to_json(self) -> dict[str, Any]:
        """Gives the account as a dictionary of plain values."""
        values = asdict(self)
        return {"naming": values.pop("key_mapping"), **values}  # As files of before have it.

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "LoadReport":
        """Returns the account that `to_json` gave."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{**known, "key_mapping": values["naming"]})

    def summary(self) -> list[str]:
        """Gives the account in a line or a few: what was loaded, and whatever was not loaded as it is."""
        used = sum(len(entry["from"]) for entry in self.loaded.values())
        lines = {
            "weights": f"{self.location}: {used} of {used + len(self._left_out())} arrays loaded",
            "head": self.head,
            "ones": _some(self.ones),
            "resized": "; ".join(f"{path} {how}" for path, how in self.resized.items()),
            "dropped": self._dropped_words(),
            "new": _some(self.initialised),
            "differs": "; ".join(f"{name}: {what}" for name, what in self.contradicted.items()),
            "note": "; ".join(self.notes),
        }
        return [f"{name:<10}{value}" for name, value in lines.items() if value]

    def _left_out(self) -> dict[str, list[int]]:
        """Gives the arrays that were dropped, but for PyTorch's counters of steps, of which each BatchNorm has one."""
        return {name: shape for name, shape in self.dropped.items() if not _is_counter(name)}

    def _dropped_words(self) -> str:
        left_out = self._left_out()
        counters = len(self.dropped) - len(left_out)
        words = f"{counters} counters of steps (num_batches_tracked), which change no result" if counters else ""
        return "; ".join(filter(None, (_some(left_out), words)))

    def table(self) -> str:
        """Gives the account as a few aligned lines."""
        return "\n".join(f"{name:<14}{value}" for name, value in self.rows().items())

    def rows(self) -> dict[str, str]:
        """Gives the account in words, by what each part is about; without what there is nothing to say of."""
        pixels = "unknown"
        if self.pixels:
            mean, std = (" ".join(f"{value + 0.0:g}" for value in self.pixels[key]) for key in ("mean", "std"))
            pixels = (
                f"{self.pixels['resize']} -> {self.pixels['size']} {self.pixels['interpolation']}, "
                f"mean {mean}, std {std} (from {self.pixels_from})"
            )
        digests = ", ".join(digest[:12] for digest in self.sha256.values())
        names = f", {self.classes[0]} ... {self.classes[-1]}" if self.classes else ""
        renamed = sum(entry["from"] != [path] for path, entry in self.loaded.items())
        rows = {
            "weights": self.location + (f" @ {self.revision[:12]}" if self.revision else ""),
            "format": f"{self.format}, {self.key_mapping} names" + (f", sha256 {digests}" if digests else ""),
            "license": self.license,
            "pixels": pixels,
            "classes": f"{self.num_classes}{names}" if self.num_classes else "none",
            "head": self.head,
            "loaded": f"{len(self.loaded)} leaves, {renamed} of them renamed" if self.loaded else "",
            "ones": _some(self.ones),
            "resized": "; ".join(f"{path} {how}" for path, how in self.resized.items()),
            "dropped": self._dropped_words(),
            "initialised": _some(self.initialised),
            "contradicted": "; ".join(f"{name}: {what}" for name, what in self.contradicted.items()),
            "model": "; ".join(self.notes),
        }
        return {name: value for name, value in rows.items() if value}


def _is_counter(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in COUNTERS)


def _some(arrays: dict[str, list[int]]) -> str:
    shown = [f"{name} {shape}" for name, shape in list(arrays.items())[:4]]
    return ", ".join(shown) + (f" and {len(arrays) - 4} more" if len(arrays) > 4 else "")
