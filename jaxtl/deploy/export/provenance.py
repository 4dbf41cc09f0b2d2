"""Where an export comes from: its run, config, base weights and licence; no place of this machine is named."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jaxtl
from jaxtl.errors import UserError

NAME = "provenance.json"
"""The file of it in a folder. Beside an export that is a file and has no place for it, that comes after its name."""


@dataclass(frozen=True)
class Provenance:
    """Where an export comes from.

    Attributes:
      run: the name of the run's folder.
      step: of the checkpoint.
      model: the name that the network was built by.
      config_sha256: of the run's config.json, as `sha256sum` gives it; "" where there is none.
      data: the source of the images; of a folder or a file on the machine that trained, its name alone.
      weights: the weights that training began with: "location" (likewise), "revision", "license" ("" where unknown) and
        "sha256" by file; None for a start at random.
      inputs: SHA-256 of the images and their labels, by split.
      format: of the export.
      calibrated: whether the calibration is folded into it.
      jaxtl: the version that wrote it.
      notes: what else the format says of itself, such as {"opset": 23}.
    """

    run: str
    step: int
    model: str
    config_sha256: str = ""
    data: str = ""
    weights: Mapping[str, Any] | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    format: str = ""
    calibrated: bool = False
    jaxtl: str = jaxtl.__version__
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Gives plain values."""
        return asdict(self)

    def to_text(self) -> str:
        """Gives JSON on one line, for the metadata of a file."""
        return json.dumps(self.to_json())

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Provenance":
        """Reads what `to_json` gave; fields of later versions are left out.

        Raises:
          KeyError, TypeError: it is something else.
        """
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})

    def noting(self, **notes: Any) -> "Provenance":
        """Returns it with more to say of the format."""
        return replace(self, notes={**self.notes, **notes})

    def lines(self) -> list[str]:
        """Returns it for a person."""
        base = "random numbers"
        if self.weights:
            base = f"{self.weights.get('location', '')}, licence {self.weights.get('license') or 'not known'}"
        form = ", calibrated" if self.calibrated else ""
        return [
            f"run       {self.run}, step {self.step}{form}, of jaxtl {self.jaxtl}",
            f"model     {self.model}, begun from {base}",
        ]


def write_provenance(path: Path, provenance: Provenance) -> None:
    """Writes it as a file of JSON."""
    path.write_text(json.dumps(provenance.to_json(), indent=1) + "\n")


def read_provenance(text: str, where: Path) -> Provenance:
    """Reads the JSON of it.

    Args:
      text: of `write_provenance`, or `Provenance.to_text`.
      where: the file that it is from, for an error.

    Raises:
      UserError: it is something else.
    """
    try:
        return Provenance.from_json(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"what {where} says of its origin is not as export writes it: {error}.") from None
