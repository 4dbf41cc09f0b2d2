"""Programs in LiteRT: from JAX without TensorFlow, in fewer bits, and the interpreter that runs them."""

import contextlib
import importlib.util
import io
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtl.deploy.export.program import Program
from jaxtl.errors import UserError, first_line

INPUT, OUTPUT = "image", "logits"
NEEDS = (
    "pip install --no-deps litert-converter==0.5.0 ai-edge-litert==2.3.0 ai-edge-quantizer==0.10.0 and pip install "
    "'jaxtl[litert]'"
)
_SIGNATURE = "serving_default"
_PACKAGES = ("litert_converter", "ai_edge_litert", "ai_edge_quantizer", "flatbuffers", "backports.strenum")
THREADS = max(1, min(4, os.cpu_count() or 1))
"""What the interpreter computes with."""


def packages() -> None:
    """Raises a UserError where what converts, quantizes and runs a model is not installed."""
    for name in _PACKAGES:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise UserError(f"LiteRT needs {name}, which is not installed: {NEEDS}")


def convert(program: Program, *, with_pixels: bool) -> bytes:
    """Returns a model of one image, [1, S, S, C] -> logits [1, K], in float32.

    Args:
      program: to convert.
      with_pixels: whether it takes uint8 and normalises within.

    Raises:
      UserError: LiteRT has no such operation.
    """
    with quiet():  # The import alone has something to say.
        import litert_converter.converter_api_ext as api
        from litert_converter.mlir import ir, passmanager

    image = jax.ShapeDtypeStruct((1, *program.shape), np.uint8 if with_pixels else np.float32)
    forward = jax.jit(lambda images: program.logits(images, with_pixels=with_pixels))
    module_text = jax.export.export(forward, platforms=["cpu"])(image).mlir_module()
    context = ir.Context()
    api.prepare_mlir_context(context)
    try:
        with quiet(), context:
            module = ir.Module.parse(module_text)
            api.set_signature(module.operation, _SIGNATURE, [INPUT], [OUTPUT])
            api.run_convert_to_tfl_passes(module, passmanager.PassManager(), api.ConvertToTFLConfig())
            found: bytes = api.export_flatbuffer_to_bytes(module.operation)
            return found
    except Exception as error:  # Of MLIR: a class of each kind of trouble.
        named = sorted(set(re.findall(r"operation '([\w.]+)'", str(error))))
        why = f"has no operation for {', '.join(named)}" if named else f"says: {first_line(error)}"
        raise UserError(f"{program.name} cannot be converted: LiteRT {why}. Nothing was written.") from error


def quantize(model: bytes, dtype: str, images: Sequence[np.ndarray] = ()) -> bytes:
    """Returns a model with fewer bits; its input and its logits stay as they are.

    Args:
      model: of `convert`.
      dtype: "float16", of weights alone; "int8_dynamic", of weights, an array of activations getting its scale as it is
        computed; "int8_static", of what convolutions and dense layers take and give, too, with scales found beforehand.
      images: as the model takes them, [1, S, S, C] each, from which "int8_static" finds its scales.
    """
    with quiet(), tempfile.TemporaryDirectory() as folder:
        from ai_edge_quantizer import qtyping, quantizer, recipe
        from ai_edge_quantizer.algorithm_manager import AlgorithmName

        file = Path(folder) / "model.tflite"
        file.write_bytes(model)
        made = quantizer.Quantizer(float_model=str(file))
        if dtype == "float16":
            half = qtyping.OpQuantizationConfig(
                weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
                compute_precision=qtyping.ComputePrecision.FLOAT,
                explicit_dequantize=True,
            )
            every = qtyping.TFLOperationName.ALL_SUPPORTED
            made.update_quantization_recipe(
                regex=".*", operation_name=every, op_config=half, algorithm_key=AlgorithmName.FLOAT_CASTING
            )
            return bytes(made.quantize().quantized_model)
        if dtype == "int8_dynamic":
            made.load_quantization_recipe(recipe.dynamic_wi8_afp32())
            return bytes(made.quantize().quantized_model)
        # The rest stays in float32: with sums, norms and softmax in 8 bits DeiT-Tiny gave 9 of 20 images another class.
        names = qtyping.TFLOperationName
        for operation in (names.CONV_2D, names.DEPTHWISE_CONV_2D, names.FULLY_CONNECTED):
            made.add_static_config(".*", operation, activation_num_bits=8, weight_num_bits=8)
        scales = made.calibrate({_SIGNATURE: [{INPUT: image} for image in images]})
        return bytes(made.quantize(scales).quantized_model)


@dataclass(frozen=True)
class Opened:
    """A model in the interpreter.

    Attributes:
      interpreter: of LiteRT.
      takes: the type of its input: uint8 where pixels are normalised within.
    """

    interpreter: Any
    takes: np.dtype

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits [N, K] of images [N, S, S, C], as the model takes them."""
        return self.timed(images)[0]

    def timed(self, images: np.ndarray) -> tuple[np.ndarray, float]:
        """Returns the logits, and the median of the milliseconds that an image took."""
        given, found = self.interpreter.get_input_details()[0], self.interpreter.get_output_details()[0]
        rows, seconds = [], []
        for image in images:
            self.interpreter.set_tensor(given["index"], image[None])
            start = time.perf_counter()
            self.interpreter.invoke()
            seconds.append(time.perf_counter() - start)
            rows.append(self.interpreter.get_tensor(found["index"])[0])
        return np.stack(rows), 1e3 * float(np.median(seconds))


def open_model(model: bytes) -> Opened:
    """Opens a model in the interpreter.

    Raises:
      UserError: it is none.
    """
    with quiet():
        from ai_edge_litert.interpreter import Interpreter

        try:
            interpreter = Interpreter(model_content=model, num_threads=THREADS)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"LiteRT cannot open the model: {first_line(error)}.") from None
    return Opened(interpreter, np.dtype(interpreter.get_input_details()[0]["dtype"]))


def program_name() -> str:
    """Returns the name of the interpreter with its version."""
    return f"LiteRT {version('ai-edge-litert')}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps progress bars, and what the libraries in C++ say, from the screen."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    nowhere = io.StringIO()
    with open(os.devnull, "w", encoding="utf-8") as said:
        try:
            for descriptor in kept:
                os.dup2(said.fileno(), descriptor)
            with (
                contextlib.redirect_stdout(nowhere),
                contextlib.redirect_stderr(nowhere),
                warnings.catch_warnings(action="ignore"),
            ):
                yield
        finally:
            for descriptor, before in kept.items():
                os.dup2(before, descriptor)
                os.close(before)
