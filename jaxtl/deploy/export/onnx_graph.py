"""From a program to a graph of ONNX, by jax2onnx; what it cannot express is named, with where it lies."""

import contextlib
import importlib.util
import io
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.compress.quantization import RANGES, rounded_input
from jaxtl.deploy.export.program import Program, Request
from jaxtl.errors import UserError, first_line
from jaxtl.models.base import GroupedModel

OPSET = 21
"""The set of operations that files are written in: TensorRT 10 and OpenVINO take it, and onnxruntime from 1.18 on."""

JAX2ONNX = "jax2onnx==0.17.1"
NEEDS = f"pip install 'jaxtl[onnx]' && pip install --no-deps {JAX2ONNX}"
"""What installs all of it: jax2onnx pins an Orbax that it never imports, so it comes without its dependencies."""

# What sums many numbers, or squares them, stays in float32 in a float16 graph: 300 squared is more than it holds.
_IN_FLOAT32 = ("ReduceMean", "ReduceSum", "ReduceSumSquare", "Pow", "Softmax", "Exp", "Erf", "LayerNormalization")


def make_graph(program: Program, request: Request, *, names: tuple[str, str], half: bool | None = None) -> Any:
    """Returns an ONNX ModelProto with a symbolic batch size.

    Args:
      program: to convert.
      request: its dtype, and whether pixels are normalised within.
      names: of the input and the output.
      half: whether it is made float16; None for what the request says.

    Raises:
      UserError: jax2onnx is missing, or knows no such operation.
    """
    packages(converter=True)
    with _quiet():
        from jax2onnx import to_onnx

    def logits(images: jax.Array) -> jax.Array:
        with _rounding_inputs() if program.module.quantized == "w8a8" else contextlib.nullcontext():
            return program.logits(images, with_pixels=request.with_pixels)

    images = jax.ShapeDtypeStruct(("B", *program.shape), jnp.uint8 if request.with_pixels else jnp.float32)
    try:
        with _quiet(), jax.numpy_rank_promotion("allow"):  # Its plugins rely on what JAX does unless told otherwise.
            graph = to_onnx(
                logits,
                [images],
                model_name=re.sub(r"\W+", "_", program.name),
                opset=OPSET,
                input_names=names[:1],
                output_names=names[1:],
            )
    except Exception as error:  # Each of its plugins has errors of its own.
        raise UserError(_unsupported(error, program.module)) from error
    # The shapes that it notes are those of another order of axes here and there; ONNX finds them by itself.
    del graph.graph.value_info[:]
    half = request.dtype == "float16" if half is None else half
    return _to_float16(graph) if half else graph


def packages(*, converter: bool = False) -> None:
    """Raises a UserError where onnx, onnxruntime, or with `converter` what makes ONNX of JAX, is not installed."""
    for name in ("onnx", "onnxruntime", *(("onnx_ir", "jax2onnx") if converter else ())):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"ONNX needs {name}, which is not installed: {NEEDS}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what jax2onnx says of packages that it could also convert, and of shapes, from the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _rounding_inputs() -> Iterator[None]:
    """Rounds the inputs of Flax's layers as `quantization.round_inputs` does, which sees none of jax2onnx's calls.

    While it converts, it has put calls of its own in their place.
    """
    theirs = {layer: layer.__call__ for layer in (nn.Dense, nn.Conv)}

    def rounding(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda module, x: call(module, rounded_input(x, module.get_variable(RANGES, "input")))

    try:
        for layer, call in theirs.items():
            layer.__call__ = rounding(call)  # type: ignore[method-assign]
        yield
    finally:
        for layer, call in theirs.items():
            layer.__call__ = call  # type: ignore[method-assign]


def _to_float16(graph: Any) -> Any:
    from onnxruntime.transformers import float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *_IN_FLOAT32]
    model = OnnxModel(float16.convert_float_to_float16(graph, keep_io_types=True, op_block_list=blocked))
    model.topological_sort()  # The casts of what it takes come last otherwise.
    return model.model


def _unsupported(error: Exception, module: GroupedModel) -> str:
    """Says which operation has no counterpart, and in which layer and group it lies."""
    equation, trace = None, error.__traceback__
    while trace is not None:
        # The innermost one that was being converted.
        at = trace.tb_frame.f_locals.get("eqn")
        equation = at if hasattr(at, "primitive") and hasattr(at, "source_info") else equation
        trace = trace.tb_next
    said = first_line(error)
    if equation is None:
        return f"jax2onnx cannot convert the model: {said}. Nothing was written."
    layer = layer_of(str(equation.source_info.name_stack))
    group = group_of(layer, module)
    where = (f" in {layer}" if layer else "") + (f" (group {group})" if group else "")
    return f"ONNX has no {equation.primitive.name}{where}, as jax2onnx has it: {said}. Nothing was written."


def layer_of(stack: str) -> str:
    """Returns the layer of JAX's name stack, without the model's class and the names of its methods.

    >>> layer_of("ResNet/ResNet.run_group/layer1.0/layer1.0._layer/conv1")
    'layer1.0/conv1'
    """
    parts = [part for part in stack.split("/") if not re.search(r"\.[a-z_]\w*$|^jit\(|\($", part)]
    return "/".join(parts[1:])


def group_of(layer: str, module: GroupedModel) -> str:
    """Returns the group of parameters that a layer belongs to; "" where it has none."""
    for name, pattern in module.groups():
        if layer and re.match(rf"(?:{pattern})(?:/|$)", layer):
            return name
    return ""
