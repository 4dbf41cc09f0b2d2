"""Whether an export computes what the model does: its logits beside those of JAX, now and on another machine.

An export carries a few images and their logits, so it can be verified where the run is not. They are drawn, and no
photographs: what a run was trained on may be private.
"""

import base64
import binascii
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from jaxtl.errors import UserError

NAME = "verification.npz"
"""The file of a reference in a folder; beside an export that is a file, that comes after its name."""

TOLERANCE = 1e-4
"""How far logits in float32 may be from those of JAX: as a share of the largest, or of 1 where all are smaller."""


@dataclass(frozen=True)
class Reference:
    """Images with their logits in JAX.

    Attributes:
      views: what the model sees before its pixels are normalised, uint8 [N, S, S, C].
      logits: of JAX in float32 [N, K].
      tolerance: how far those of the export may be from them (see `TOLERANCE`).
    """

    views: np.ndarray
    logits: np.ndarray
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Comparison:
    """Logits of an export beside those of JAX.

    Attributes:
      images: their number.
      largest: the largest difference of two logits; infinite where one is not finite.
      scale: the largest logit of JAX, but at least 1.
      moved: the number of images whose most likely class is another.
      tolerance: the share of `scale` that `largest` may be.
    """

    images: int
    largest: float
    scale: float
    moved: int
    tolerance: float

    @property
    def share(self) -> float:
        """The largest difference as a share of the largest logit."""
        return self.largest / self.scale

    @property
    def passes(self) -> bool:
        """Whether the logits are as near as they must be."""
        return self.share <= self.tolerance

    def __str__(self) -> str:
        moved = f"; {self.moved} get another class" if self.moved else ""
        return (
            f"on {self.images} images the largest difference of logits is {self.largest:.2g}, {self.share:.2g} of the "
            f"largest ({self.tolerance:g} is allowed){moved}"
        )


def compare(found: np.ndarray, expected: np.ndarray, *, tolerance: float = TOLERANCE) -> Comparison:
    """Compares logits.

    Args:
      found: of the export [N, K].
      expected: of JAX [N, K].
      tolerance: the largest difference that passes, as a share of the largest logit (see `TOLERANCE`).

    Raises:
      UserError: the shapes differ.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise UserError(f"the export gives logits of shape {list(found.shape)}, JAX {list(expected.shape)}.")
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    moved = int((found.argmax(1) != expected.argmax(1)).sum())
    largest = float(np.abs(found - expected).max(initial=0.0))
    return Comparison(len(found), largest if np.isfinite(largest) else np.inf, scale, moved, tolerance)


def require_same(
    found: np.ndarray, expected: np.ndarray, *, program: str, tolerance: float = TOLERANCE, advice: str = ""
) -> Comparison:
    """Compares logits, and returns how near they are.

    Args:
      found: of the export [N, K].
      expected: of JAX [N, K].
      program: what computed those of the export, such as "onnxruntime 1.32.0".
      tolerance: as of `compare`.
      advice: what ends the error.

    Raises:
      UserError: they differ by more than the tolerance.
    """
    comparison = compare(found, expected, tolerance=tolerance)
    if not comparison.passes:
        raise UserError(f"{program} computes otherwise than JAX: {comparison}. {advice or 'Nothing was written.'}")
    return comparison


def draw_views(size: int, channels: int = 3, count: int = 4) -> np.ndarray:
    """Draws images of stripes and discs, the same on every machine: uint8 [count, size, size, channels]."""
    rows, columns = np.mgrid[:size, :size].astype(np.int64)
    views = np.zeros((count, size, size, channels), np.uint8)
    for i in range(count):
        for c in range(channels):
            # Whole numbers alone: another processor or another NumPy rounds none of it otherwise.
            number = 1 + i * channels + c
            waves = (rows * (number % 7 + 1) + columns * (number % 5 + 2)) * 512 // size % 256
            far = (rows - size * (number % 3 + 1) // 4) ** 2 + (columns - size * (number % 4 + 1) // 5) ** 2
            disc = np.where(far < (size * (2 + number % 3) // 8) ** 2, 120, 0)
            views[i, ..., c] = (np.abs(waves - 128) // 8 * 8 + disc) % 256
    return views


def write_reference(file: Path | IO[bytes], reference: Reference) -> None:
    """Writes a reference as an .npz file, which NumPy alone can read."""
    tolerance = np.float64(reference.tolerance)
    # To a stream, since NumPy puts .npz after names without it.
    stream = io.BytesIO()
    np.savez_compressed(stream, views=reference.views, logits=reference.logits.astype(np.float32), tolerance=tolerance)
    if isinstance(file, Path):
        file.write_bytes(stream.getvalue())
    else:
        file.write(stream.getvalue())


def read_reference(file: Path | IO[bytes], where: Path | None = None) -> Reference:
    """Reads what `write_reference` wrote.

    Args:
      file: to read.
      where: what to call it in an error, if it is no path.

    Raises:
      UserError: it is not there, or something else.
    """
    name = where or file
    try:
        # NumPy leaves a broken file open.
        stream = io.BytesIO(file.read_bytes()) if isinstance(file, Path) else file
        with np.load(stream, allow_pickle=False) as arrays:
            return Reference(arrays["views"], arrays["logits"], float(arrays["tolerance"]))
    except FileNotFoundError:
        raise UserError(f"there is no {name}, which has the images and logits to verify with.") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"the images and logits to verify {name} with cannot be read: {error}.") from None


def reference_to_text(reference: Reference) -> str:
    """Returns a reference as text, for the metadata of a file."""
    stream = io.BytesIO()
    write_reference(stream, reference)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def reference_from_text(text: str, where: Path) -> Reference:
    """Reads what `reference_to_text` gave.

    Raises:
      UserError: it is something else.
    """
    try:
        return read_reference(io.BytesIO(base64.b64decode(text, validate=True)), where)
    except binascii.Error as error:
        raise UserError(f"the images and logits to verify {where} with cannot be read: {error}.") from None
