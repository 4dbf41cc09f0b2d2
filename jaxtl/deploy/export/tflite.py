"""tflite: one file for LiteRT on phones and boards; the interpreter runs it before it is kept."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxtl.deploy.export import Format, Runner
from jaxtl.deploy.export.litert import OUTPUT, THREADS, Opened, convert, open_model, packages, program_name, quantize
from jaxtl.deploy.export.notes import Notes, read_notes, write_notes
from jaxtl.deploy.export.program import Program, Request, normalized
from jaxtl.deploy.export.verification import TOLERANCE, Comparison, compare, require_same
from jaxtl.deploy.export.weights import pixels_of
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels

# The largest difference of logits by the largest logit.
TOLERANCES = {"float32": TOLERANCE, "float16": 2e-2}
INT8 = ("int8_dynamic", "int8_static")
# Of int8 a single logit says little: a ResNet-20's differ by 0.51 of the largest, and it gets as many images right.
# What they typically differ by must be less than half of what tells classes apart; of zeros it is all of that.
_TYPICAL = 0.5
# Verified again, a model that gives zeros differs by 1.
_LARGEST = 0.9
# What int8 should keep: a quarter of the bytes, with the scales and what stays in float; and accuracy on val.
_SHARE, _POINTS = 0.30, 1.0
# How much further from JAX the logits of int8 may be on another machine than on this one.
_LEEWAY = 1.5


@dataclass(frozen=True)
class Measured:
    """What a model is worth.

    Attributes:
      dtype: of it.
      size: in bytes.
      milliseconds: for an image, the median.
      right: the share of val that it gets right; None where the images are not here.
    """

    dtype: str
    size: int
    milliseconds: float
    right: float | None


def save_tflite(path: Path, program: Program, request: Request) -> str:
    """Writes a model of one image, [1, S, S, C] -> logits [1, K], that LiteRT's interpreter has run.

    The input "image" is float32, normalised, or with `request.with_pixels` uint8; the logits are float32 whatever
    `request.dtype` is. Notes go beside the file.

    Returns:
      The comparison with JAX, and size, milliseconds and accuracy beside float32.

    Raises:
      UserError: a package is missing, LiteRT has no such operation or computes something else, or "int8_static" has no
        images of train.
    """
    if request.dtype == "int8_static" and request.train is None:
        raise UserError(
            "int8_static finds the scales of activations with images of train, and the run's own are not here: "
            "put them where its config says, or take int8_dynamic, which needs none."
        )
    whole = convert(program, with_pixels=request.with_pixels)
    found = _runner(whole, program.pixels)
    expected = program.reference(request.views)
    comparison = require_same(
        found.logits(request.views), expected.logits, program=found.program, tolerance=expected.tolerance
    )
    lines = [f"{found.program}, float32, {request.origin}: {comparison}"]
    rows = [_measure("float32", whole, program, request)]
    drawn = program.reference()
    if request.dtype != "float32":
        images = [] if request.train is None else list(_as_taken(request.train, program.pixels, request.with_pixels))
        whole = quantize(whole, request.dtype, [image[None] for image in images])
        found = _runner(whole, program.pixels)
        program_words, given = f"{found.program}, {request.dtype}, {request.origin}", found.logits(request.views)
        if request.dtype in INT8:
            lines.append(f"{program_words}: {require_alike(given, expected.logits, program=program_words)}")
        else:
            tolerance = max(TOLERANCES[request.dtype], program.tolerance)
            same = require_same(given, expected.logits, program=program_words, tolerance=tolerance)
            lines.append(f"{program_words}: {same}")
        rows.append(_measure(request.dtype, whole, program, request))
        drawn = program.reference(tolerance=_tolerance(request.dtype, compare(found.logits(drawn.views), drawn.logits)))
    provenance = request.provenance.noting(
        **program.facts(), dtype=request.dtype, with_pixels=request.with_pixels, accuracy_on_val=rows[-1].right
    )
    path.write_bytes(whole)
    write_notes(path, Notes(provenance, drawn))
    side, _, channels = program.shape
    kind = "uint8, normalised within" if request.with_pixels else "float32, normalised"
    lines += [
        f"takes image [1, {side}, {side}, {channels}], {kind}; gives {OUTPUT} [1, {len(program.classes)}], float32"
    ]
    return "\n".join([*lines, *_table(rows, request), *_verdict(rows)])


def require_alike(found: np.ndarray, expected: np.ndarray, *, program: str) -> str:
    """Says what the logits of int8 typically differ by.

    Args:
      found: of int8 [N, K].
      expected: of JAX [N, K].
      program: what computed those of int8.

    Raises:
      UserError: it is half and more of what tells classes apart, the spread of an image's logits.
    """
    spread = np.sqrt(np.mean((expected - expected.mean(1, keepdims=True)) ** 2))
    typical = float(np.sqrt(np.mean((found - expected) ** 2)) / np.maximum(spread, 1e-30))
    moved = int((found.argmax(1) != expected.argmax(1)).sum())
    words = (
        f"on {len(found)} images logits typically differ by {typical:.2g} of what tells classes apart ({_TYPICAL:g} is "
        f"allowed); {moved} get another class"
    )
    if not typical < _TYPICAL:
        raise UserError(f"{program} computes otherwise than JAX: {words}. Nothing was written; try another dtype.")
    return words


def _tolerance(dtype: str, comparison: Comparison) -> float:
    """Returns how far the logits may be from JAX where the file is verified again."""
    return TOLERANCES.get(dtype, min(_LARGEST, max(TOLERANCE, _LEEWAY * comparison.share)))


def _as_taken(views: np.ndarray, pixels: Pixels, with_pixels: bool) -> np.ndarray:
    return views if with_pixels else normalized(views, pixels)


def _measure(dtype: str, model: bytes, program: Program, request: Request) -> Measured:
    """Runs a model on val, or on the images to verify it on where there are no others."""
    opened = open_model(model)
    if request.val is None:
        _, milliseconds = opened.timed(_as_taken(request.views, program.pixels, request.with_pixels))
        return Measured(dtype, len(model), milliseconds, None)
    views, labels = request.val
    logits, milliseconds = opened.timed(_as_taken(views, program.pixels, request.with_pixels))
    right = (logits > 0) == (labels > 0) if labels.ndim == 2 else logits.argmax(1) == labels
    return Measured(dtype, len(model), milliseconds, float(right.mean()))


def _table(rows: list[Measured], request: Request) -> list[str]:
    """Returns what was measured, a line each."""
    several = request.val is not None and request.val[1].ndim == 2
    what = (
        "no images of val"
        if request.val is None
        else f"{'labels' if several else 'accuracy'} of {len(request.val[1])} of val"
    )
    lines = [f"{'':13}{'MB':>8}{f'ms, {THREADS} threads':>16}{what:>28}"]
    for row in rows:
        right = "–" if row.right is None else f"{100 * row.right:.1f} %"
        lines.append(f"{row.dtype:13}{row.size / 1e6:8.2f}{row.milliseconds:16.1f}{right:>28}")
    return lines


def _verdict(rows: list[Measured]) -> list[str]:
    """Says where int8 is not what it is for."""
    first, last = rows[0], rows[-1]
    if not last.dtype.startswith("int8"):
        return []
    lines = []
    if last.size > _SHARE * first.size:
        lines.append(f"note: {last.dtype} is {last.size / first.size:.0%} of the size of float32, more than a quarter")
    if first.right is None or last.right is None:
        lines.append(f"note: what {last.dtype} costs in accuracy is not measured, since the run's images are not here")
    elif 100 * (first.right - last.right) > _POINTS:
        lines.append(
            f"note: {last.dtype} loses {100 * (first.right - last.right):.1f} points of accuracy on val: "
            f"try {'int8_dynamic' if last.dtype == 'int8_static' else 'float16'}"
        )
    return lines


def _runner(model: bytes, pixels: Pixels) -> Runner:
    opened: Opened = open_model(model)

    def logits(views: np.ndarray) -> np.ndarray:
        return opened.logits(views if opened.takes == np.uint8 else normalized(views, pixels))

    return Runner(program_name(), logits)


def run_tflite(path: Path) -> Runner:
    """Opens a file for verification.

    Raises:
      UserError: the interpreter is not installed, or cannot open it.
    """
    packages()
    return _runner(path.read_bytes(), pixels_of(read_notes(path), path))


FORMAT = Format(
    "tflite",
    "a file for LiteRT (extra litert)",
    save_tflite,
    suffix=".tflite",
    run=run_tflite,
    dtypes=(*TOLERANCES, *INT8),
    takes_pixels=True,
    compares=True,
    measures=True,
    require=packages,
)
