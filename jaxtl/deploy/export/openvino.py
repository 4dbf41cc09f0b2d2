"""openvino: a folder with OpenVINO's model.xml and model.bin, made of the ONNX graph, and run before it is kept."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.deploy.export import Format, Runner
from jaxtl.deploy.export.notes import Notes, read_notes, write_notes
from jaxtl.deploy.export.onnx import INPUT, OUTPUT, TOLERANCES
from jaxtl.deploy.export.onnx_graph import JAX2ONNX, make_graph, packages
from jaxtl.deploy.export.program import Program, Request, in_two_parts, normalized
from jaxtl.deploy.export.verification import require_same
from jaxtl.deploy.export.weights import pixels_of
from jaxtl.errors import UserError, first_line
from jaxtl.preprocessing import Pixels

NEEDS = f"pip install 'jaxtl[openvino]' && pip install --no-deps {JAX2ONNX}"


def save_openvino(path: Path, program: Program, request: Request) -> str:
    """Writes a new folder with the model, its facts as JSON, and its notes; in float16 the weights alone are.

    Returns:
      The comparison with JAX.

    Raises:
      UserError: a package is missing, OpenVINO or ONNX has no such operation, or it computes something else.
    """
    require()
    import openvino

    # Float16 is OpenVINO's own to make: it keeps the weights in it, and computes as its device likes best.
    graph = make_graph(program, request, names=(INPUT, OUTPUT), half=False)
    tolerance = TOLERANCES[request.dtype]
    path.mkdir(parents=True)
    onnx_file = path / "model.onnx"
    onnx_file.write_bytes(graph.SerializeToString())
    try:
        model = openvino.convert_model(onnx_file)
    except Exception as error:  # Each of its parts has errors of its own.
        raise UserError(f"OpenVINO cannot take the model: {first_line(error)}. Nothing was written.") from error
    finally:
        onnx_file.unlink()
    for name, value in program.facts().items():
        model.set_rt_info(value if isinstance(value, str) else json.dumps(value), ["jaxtl", name])
    openvino.save_model(model, path / "model.xml", compress_to_fp16=request.dtype == "float16")
    provenance = request.provenance.noting(dtype=request.dtype, with_pixels=request.with_pixels)
    (path / "model.json").write_text(json.dumps(program.facts(), indent=1) + "\n")
    write_notes(path, Notes(provenance, program.reference(tolerance=tolerance)))
    runner = _open(path, program.pixels)
    expected = program.reference(request.views, tolerance=tolerance)
    comparison = require_same(
        runner.logits(request.views), expected.logits, program=runner.program, tolerance=expected.tolerance
    )
    return f"{runner.program}, {request.origin}: {comparison}"


def require() -> None:
    """Raises a UserError where OpenVINO, or what makes the ONNX graph, is not installed."""
    if importlib.util.find_spec("openvino") is None:
        raise UserError(f"OpenVINO is not installed: {NEEDS}")
    packages(converter=True)


def run_openvino(path: Path) -> Runner:
    """Opens a folder for verification.

    Raises:
      UserError: OpenVINO is not installed, or cannot open it.
    """
    return _open(path, pixels_of(read_notes(path), path))


def _open(path: Path, pixels: Pixels) -> Runner:
    if importlib.util.find_spec("openvino") is None:
        raise UserError(f"OpenVINO is not installed: {NEEDS}")
    os.environ.setdefault("OPENVINO_TELEMETRY_DISABLED", "1")
    import openvino

    try:
        # In float32 whatever the processor would rather compute in: what is compared are the weights and operations.
        compiled = openvino.compile_model(path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:  # Each of its parts has errors of its own.
        raise UserError(f"OpenVINO cannot open {path}: {first_line(error)}") from error
    whole = compiled.input(0).get_element_type() == openvino.Type.u8

    def logits(views: np.ndarray) -> np.ndarray:
        images: Any = views if whole else normalized(views, pixels)
        # Its arrays are overwritten by the next run.
        return in_two_parts(lambda part: np.array(compiled(np.ascontiguousarray(part))[0]), images)

    return Runner(f"OpenVINO {openvino.__version__.partition('-')[0]} on the CPU", logits)


FORMAT = Format(
    "openvino",
    "a folder for OpenVINO (extra openvino)",
    save_openvino,
    run=run_openvino,
    dtypes=("float32", "float16"),
    takes_pixels=True,
    compares=True,
    require=require,
)
