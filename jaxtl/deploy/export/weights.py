"""Formats that hold weights alone: written from a program, and opened again to verify them."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxtl import models, pretrained
from jaxtl.deploy.export import Runner
from jaxtl.deploy.export.notes import Notes, read_notes, write_notes
from jaxtl.deploy.export.program import Program, Request, normalized
from jaxtl.deploy.export.provenance import read_provenance
from jaxtl.deploy.export.verification import reference_from_text, reference_to_text
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels


def weights_alone(save: Callable[..., str | None]) -> Callable[[Path, Program, Request], str | None]:
    """Returns the `save` of a format from one that takes variables; notes go beside what it writes.

    Args:
      save: (path, variables, model=, pixels=, classes=, epsilon=, calibration=, provenance=) -> what its user must know
        besides, or None.
    """

    def save_program(path: Path, program: Program, request: Request) -> str | None:
        said = save(
            path,
            program.variables,
            model=program.name,
            pixels=program.pixels,
            classes=program.classes,
            epsilon=program.epsilon,
            calibration=program.calibration,
            provenance=request.provenance,
        )
        write_notes(path, Notes(request.provenance, program.reference()))
        return said

    return save_program


def save_native(path: Path, program: Program, request: Request) -> None:
    """Writes one file in native names, with all notes in its metadata."""
    pretrained.save_native(
        path,
        program.variables,
        model=program.name,
        pixels=program.pixels,
        classes=program.classes,
        epsilon=program.epsilon,
        calibration=program.calibration,
        notes={
            "provenance": request.provenance.to_text(),
            "verification": reference_to_text(program.reference()),
        },
    )


def native_notes(path: Path) -> Notes:
    """Returns what a file of `save_native` says of itself.

    Raises:
      UserError: it is no such file.
    """
    try:
        with safe_open(path, "numpy") as file:
            found = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if missing := [name for name in ("provenance", "verification") if name not in found]:
        raise UserError(
            f"{path} has no {' and no '.join(missing)} in its metadata: an earlier version of jaxtl exported it, "
            "or another program."
        )
    return Notes(read_provenance(found["provenance"], path), reference_from_text(found["verification"], path))


def pixels_of(notes: Notes, path: Path) -> Pixels:
    """Returns the pixel facts in the provenance of an export.

    Raises:
      UserError: there are none.
    """
    try:
        return Pixels.from_json(notes.provenance.notes["pixels"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the provenance of {path} has no pixels as export writes them: {error}.") from None


def with_pixels(logits: Callable[[np.ndarray], np.ndarray], path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function of views from one of normalised images, for an export whose notes lie in files."""
    pixels = pixels_of(read_notes(path), path)
    return lambda views: logits(normalized(views, pixels))


def reopened(path: Path) -> Runner:
    """Opens an export of weights by jaxtl, as `model.weights` does, to run it in JAX.

    Raises:
      UserError: it is not as it was written.
    """
    notes = native_notes(path) if path.suffix == ".safetensors" else read_notes(path)
    pixels, name = pixels_of(notes, path), notes.provenance.model
    opened = pretrained.open_weights(str(path), model=name)
    module = models.build(
        pretrained.resolve_model(opened, name),
        num_classes=notes.reference.logits.shape[1],
        image_size=pixels.size,
        epsilon=notes.provenance.notes.get("epsilon"),
    )
    variables, _ = pretrained.load_pretrained(
        opened, module, image_size=pixels.size, head="keep", rng=jax.random.key(0)
    )
    program = Program(name, module, variables, pixels, ())
    return Runner("jaxtl, which opened it again", lambda views: program.reference(views).logits)
