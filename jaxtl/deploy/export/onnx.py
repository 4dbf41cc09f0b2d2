"""onnx: one file that onnxruntime and its like run; it is run and compared before it is kept."""

import json
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from jaxtl.deploy.export import Format, Runner
from jaxtl.deploy.export.notes import Notes
from jaxtl.deploy.export.onnx_graph import make_graph, packages
from jaxtl.deploy.export.program import Program, Request, in_two_parts, normalized
from jaxtl.deploy.export.provenance import read_provenance
from jaxtl.deploy.export.verification import TOLERANCE, reference_from_text, reference_to_text, require_same
from jaxtl.deploy.export.weights import pixels_of
from jaxtl.errors import UserError, first_line
from jaxtl.preprocessing import Pixels

# Of float16: a number has 11 bits then, and what is summed up adds to that; DeiT-Tiny is 4.7e-4 off.
TOLERANCES = {"float32": TOLERANCE, "float16": 2e-2}
INPUT, OUTPUT = "image", "logits"
_PREFIX = "jaxtl."
# Protobuf, in which it is written, ends at 2 GiB; the graph takes some of them.
_LARGEST = 2**31 - 2**24


def save_onnx(path: Path, program: Program, request: Request) -> str:
    """Writes an ONNX file with a free batch size: images in, logits [B, C] out.

    The input "image" is float32 [B, S, S, C], normalised, or with `request.with_pixels` uint8. Resizing and the crop
    are left to who calls it: the metadata say how. In float16 the input and the logits stay float32.

    Returns:
      The comparison with JAX, and how to use the file.

    Raises:
      UserError: a package is missing, ONNX has no such operation, or onnxruntime computes something else.
    """
    import onnx

    if sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(program.variables)) >= _LARGEST:
        raise UserError("the model has over 2 GB of weights, more than one ONNX file holds; a bundle takes it.")
    graph = make_graph(program, request, names=(INPUT, OUTPUT))
    tolerance = TOLERANCES[request.dtype]
    provenance = request.provenance.noting(
        opset=graph.opset_import[0].version, dtype=request.dtype, with_pixels=request.with_pixels
    )
    facts = {
        **{name: value if isinstance(value, str) else json.dumps(value) for name, value in program.facts().items()},
        "input": _input_words(program, request),
        "output": "logits, float32 [B, C]",
        "provenance": provenance.to_text(),
        "verification": reference_to_text(program.reference(tolerance=tolerance)),
    }
    onnx.helper.set_model_props(graph, {_PREFIX + name: value for name, value in facts.items()})
    graph.producer_name, graph.producer_version = "jaxtl", provenance.jaxtl
    whole = graph.SerializeToString()
    try:
        onnx.checker.check_model(whole, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(f"ONNX's checker refuses the model: {error}. Nothing was written.") from error
    runner = _open(whole, program.pixels)
    expected = program.reference(request.views, tolerance=tolerance)
    comparison = require_same(
        runner.logits(request.views), expected.logits, program=runner.program, tolerance=expected.tolerance
    )
    path.write_bytes(whole)
    lines = [
        f"{runner.program}, {request.origin}: {comparison}",
        f"opset {provenance.notes['opset']}, {request.dtype}; takes {facts['input']}",
        trtexec_line(path, program, request),
    ]
    return "\n".join(lines)


def _input_words(program: Program, request: Request) -> str:
    height, width, channels = program.shape
    kind = "uint8, normalised within" if request.with_pixels else "float32, normalised as jaxtl.pixels says"
    return f"{INPUT} [B, {height}, {width}, {channels}], {kind}; resized and cropped before, as jaxtl.pixels says"


def trtexec_line(path: Path, program: Program, request: Request) -> str:
    """Returns the command that makes a TensorRT engine of the file, and what of that nobody has verified."""
    sides = "x".join(map(str, program.shape))
    shapes = " ".join(
        f"--{bound}Shapes={INPUT}:{batch}x{sides}" for bound, batch in (("min", 1), ("opt", 8), ("max", 32))
    )
    half = " --fp16" if request.dtype == "float16" else ""
    return (
        f"TensorRT: trtexec --onnx={path.name} {shapes}{half} --saveEngine={path.stem}.engine\n"
        "  (not verified: that TensorRT takes every operation of this opset, and what its engine computes; compare its "
        "logits with those in jaxtl.verification)"
    )


def run_onnx(path: Path) -> Runner:
    """Opens a file for verification.

    Raises:
      UserError: onnxruntime is not installed, or cannot open it.
    """
    notes = read_notes(path)
    return _open(path.read_bytes(), pixels_of(notes, path))


def _open(whole: bytes, pixels: Pixels) -> Runner:
    packages()
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(whole, providers=["CPUExecutionProvider"])
    except Exception as error:  # Its errors have no class in common but this one.
        raise UserError(f"onnxruntime cannot open the model: {first_line(error)}") from error
    given = session.get_inputs()[0]

    def logits(views: np.ndarray) -> np.ndarray:
        images = views if given.type == "tensor(uint8)" else normalized(views, pixels)
        return in_two_parts(lambda part: session.run(None, {given.name: part})[0], images)

    return Runner(f"onnxruntime {version('onnxruntime')}", logits)


def read_notes(path: Path) -> Notes:
    """Returns what the file says of itself.

    Raises:
      UserError: it is no ONNX file, or one that jaxtl did not write.
    """
    packages()
    import onnx

    try:
        graph = onnx.load(str(path))
    except Exception as error:  # Of protobuf, whose class depends on how it is installed.
        raise UserError(f"{path} is no ONNX file: {first_line(error)}") from None
    found = {each.key.removeprefix(_PREFIX): each.value for each in graph.metadata_props}
    missing = [name for name in ("provenance", "verification") if name not in found]
    if missing:
        raise UserError(f"{path} has no {', '.join(missing)} in its metadata: jaxtl did not write it as it is.")
    return Notes(read_provenance(found["provenance"], path), reference_from_text(found["verification"], path))


FORMAT = Format(
    "onnx",
    "an ONNX file (extra onnx)",
    save_onnx,
    suffix=".onnx",
    run=run_onnx,
    notes=read_notes,
    dtypes=("float32", "float16"),
    takes_pixels=True,
    compares=True,
    require=partial(packages, converter=True),
)
