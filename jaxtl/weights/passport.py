"""The passport: where weights come from and what became of each of their arrays."""

from dataclasses import asdict, dataclass, field
from typing import Any

from jaxtl.weights.source import Weights


@dataclass
class Passport:
    """The account of one adoption; written to weights.json, printed as a short table.

    Attributes:
      location: as the user gave it.
      files: the names of the files.
      sha256: the digest of each file.
      revision: the commit of a hub repository.
      license: what the hub's model card says.
      format: the file format.
      naming: the convention of the names.
      model: the name of the model that the source says it is of.
      num_classes: the width of its head.
      classes: its class names.
      pixels: its pixel facts.
      pixels_from: where those come from.
      head: what became of its head, and why.
      loaded: our leaves that were filled, with their shapes.
      renamed: how many arrays have another name here.
      resized: leaves that were fitted, with the shapes before and after.
      dropped: arrays of the source that were left out.
      initialised: our leaves that got a fresh value.
      contradicted: fields in which the model was asked to differ from what its weights imply.
    """

    location: str
    files: list[str]
    sha256: dict[str, str]
    revision: str
    license: str
    format: str
    naming: str
    model: str
    num_classes: int
    classes: list[str] | None
    pixels: dict[str, Any] | None
    pixels_from: str
    head: str
    loaded: dict[str, list[int]] = field(default_factory=dict)
    renamed: int = 0
    resized: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)
    contradicted: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, weights: Weights, *, head: str) -> "Passport":
        """Starts the account of a source; what became of its arrays is added by the adoption."""
        return cls(
            location=weights.location,
            files=[path.name for path in weights.files],
            sha256=weights.sha256,
            revision=weights.revision,
            license=weights.license,
            format=weights.format,
            naming=weights.naming.name,
            model=weights.model,
            num_classes=weights.num_classes,
            classes=list(weights.classes) if weights.classes else None,
            pixels=weights.pixels.to_json() if weights.pixels else None,
            pixels_from=weights.pixels_from,
            head=head,
            renamed=sum(parts[0].source != path for path, parts in weights.plan.parts.items()),
        )

    def to_json(self) -> dict[str, Any]:
        """Gives the account as a dictionary of plain values."""
        return asdict(self)

    def table(self) -> str:
        """Gives the account as a few aligned lines."""
        pixels = "unknown"
        if self.pixels:
            mean, std = (" ".join(f"{value:g}" for value in self.pixels[key]) for key in ("mean", "std"))
            pixels = (
                f"{self.pixels['resize']} -> {self.pixels['size']} {self.pixels['interpolation']}, "
                f"mean {mean}, std {std} (from {self.pixels_from})"
            )
        digests = ", ".join(digest[:12] for digest in self.sha256.values())
        names = f", {self.classes[0]} ... {self.classes[-1]}" if self.classes else ""
        rows = {
            "weights": self.location + (f" @ {self.revision[:12]}" if self.revision else ""),
            "format": f"{self.format}, {self.naming} names" + (f", sha256 {digests}" if digests else ""),
            "license": self.license,
            "pixels": pixels,
            "classes": f"{self.num_classes}{names}" if self.num_classes else "none",
            "head": self.head,
            "loaded": f"{len(self.loaded)} arrays, {self.renamed} of them renamed",
            "resized": "; ".join(f"{path} {how}" for path, how in self.resized.items()),
            "dropped": _some(self.dropped),
            "initialised": _some(self.initialised),
            "contradicted": "; ".join(f"{name}: {what}" for name, what in self.contradicted.items()),
        }
        return "\n".join(f"{name:<14}{value}" for name, value in rows.items() if value)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
