"""From a program to a graph of ONNX, by jax2onnx; what it cannot express is named, with where it lies."""

import contextlib
import importlib.util
import io
import logging
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from jaxtl.deploy.export.program import Program, Request
from jaxtl.errors import UserError
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
        return program.logits(images, with_pixels=request.with_pixels)

    images = jax.ShapeDtypeStruct(("B", *program.shape), jnp.uint8 if request.with_pixels else jnp.float32)
    try:
        with _quiet():
            graph = to_onnx(
                logits,
                [images],
                model_name=re.sub(r"\W+", "_", program.name),
                opset=OPSET,
                input_names=names[:1],
                output_names=names[1:],
            )
    except NotImplementedError as error:
        raise UserError(_unsupported(error, logits, images, program.module)) from error
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


def _to_float16(graph: Any) -> Any:
    from onnxruntime.transformers import float16

    blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *_IN_FLOAT32]
    return float16.convert_float_to_float16(graph, keep_io_types=True, op_block_list=blocked)


def _unsupported(error: Exception, function: Any, images: Any, module: GroupedModel) -> str:
    """Says which operation has no counterpart, and in which group and layer it lies."""
    found = re.search(r"primitive\s+['\"`]?([\w.\-]+)", str(error))
    name = found[1] if found else ""
    shape = jax.ShapeDtypeStruct((2, *images.shape[1:]), images.dtype)
    place = _place_of(name, jax.make_jaxpr(lambda images: function(images))(shape).jaxpr) if name else ""
    where = f" in {place}" if place else ""
    group = group_of(place, module)
    where += f" (group {group})" if group else ""
    return (
        f"ONNX has no {name or 'operation'}{where}: jax2onnx says {str(error).splitlines()[0]!r}. Nothing was written."
    )


def _place_of(name: str, jaxpr: Any) -> str:
    """Returns the layer of the first operation of that name, such as "layer1.0/conv1"; "" where there is none."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            return layer_of(str(equation.source_info.name_stack))
        for inner in jaxprs_in_params(equation.params):
            if place := _place_of(name, inner):
                return place
    return ""


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
