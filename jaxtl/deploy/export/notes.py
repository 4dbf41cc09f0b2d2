"""What an export says of itself: where it comes from, and the images and logits to verify it with."""

from dataclasses import dataclass
from pathlib import Path

from jaxtl.deploy.export import provenance as origins
from jaxtl.deploy.export import verification
from jaxtl.deploy.export.provenance import Provenance, read_provenance, write_provenance
from jaxtl.deploy.export.verification import Reference, read_reference, write_reference
from jaxtl.errors import UserError


@dataclass(frozen=True)
class Notes:
    """What an export says of itself.

    Attributes:
      provenance: where it comes from.
      reference: the images and logits to verify it with.
    """

    provenance: Provenance
    reference: Reference


def _places(export: Path) -> tuple[Path, Path]:
    """Returns the files of notes: in an export that is a folder, or beside one that is a file, after its name."""
    if export.is_dir():
        return export / origins.NAME, export / verification.NAME
    return (
        export.with_name(f"{export.name}.{origins.NAME}"),
        export.with_name(f"{export.name}.{verification.NAME}"),
    )


def write_notes(export: Path, notes: Notes, name: str = "") -> None:
    """Writes notes as two files, into an export that is a folder, or beside one that is a file.

    Args:
      export: the folder or the file.
      notes: of it.
      name: of the file, where it will have another one.
    """
    first, second = _places(export if not name or export.is_dir() else export.with_name(name))
    write_provenance(first, notes.provenance)
    write_reference(second, notes.reference)


def read_notes(export: Path) -> Notes:
    """Reads what `write_notes` wrote.

    Raises:
      UserError: it is not there, or something else.
    """
    first, second = _places(export)
    try:
        text = first.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"there is no {first}: jaxtl writes one with every export, without which there is nothing to verify "
            f"{export} with."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{first} cannot be read: {error}.") from None
    return Notes(read_provenance(text, first), read_reference(second))
