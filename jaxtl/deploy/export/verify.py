"""Verifies an export again, anywhere: by the images and logits that it carries."""

from pathlib import Path

from jaxtl.deploy.export import Format, formats
from jaxtl.deploy.export.notes import Notes, read_notes
from jaxtl.deploy.export.verification import Comparison, compare
from jaxtl.errors import UserError, first_line


def verify(path: Path) -> tuple[Notes, str, Comparison]:
    """Runs an export on the images that it carries, and compares its logits with those that JAX gave.

    Args:
      path: the file or the folder.

    Returns:
      What it says of itself, the program that ran it, and the comparison.

    Raises:
      UserError: it is not there or carries nothing, or what runs it is not installed.
    """
    chosen = format_of(path)
    notes = (chosen.notes or read_notes)(path)
    if chosen.run is None:
        raise UserError(f"no program that runs the format {chosen.name} is known here.")
    reference = notes.reference
    try:
        runner = chosen.run(path)
        found = runner.logits(reference.views)
    except UserError:
        raise
    except Exception as error:  # Each program has errors of its own, and the file may hold anything.
        said = first_line(error)
        raise UserError(f"{path} cannot be run on the images that it carries: {said}") from error
    return notes, runner.program, compare(found, reference.logits, tolerance=reference.tolerance)


def format_of(path: Path) -> Format:
    """Returns the format of an export.

    Raises:
      UserError: it is not there, or none that jaxtl writes.
    """
    if not path.exists():
        raise UserError(f"there is no {path}: give a file or a folder that export wrote.")
    if path.is_file():
        endings = {end: each for each in formats().values() for end in (each.suffix, each.archive) if end}
        if path.suffix not in endings:
            raise UserError(f"{path} ends in none of {', '.join(endings)}, so it is no export of jaxtl.")
        return endings[path.suffix]
    name = read_notes(path).provenance.format
    if name not in formats():
        raise UserError(f"{path} is of the format {name!r}, which this version of jaxtl does not know.")
    return formats()[name]
