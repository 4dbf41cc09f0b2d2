"""Real packages, for the tests alone, from folders beside their environment: torchvision, timm, jax2onnx and LiteRT.

`.ci/real_packages` fills those folders. Where one is missing, tests that need it are skipped, but for CI, where they
fail.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(os.environ.get("JAXTL_REAL_PACKAGES", Path(__file__).parents[1] / ".real"))
_kept: list[Any] = []


def torchvision() -> ModuleType:
    """Gives torchvision."""
    return _find("torchvision")


def timm() -> ModuleType:
    """Gives timm."""
    return _find("timm")


def jax2onnx() -> ModuleType:
    """Gives jax2onnx, from the tests' environment if it is there: with its dependencies it would not fit in."""
    if importlib.util.find_spec("jax2onnx") is None:
        folder = FOLDER / "converters"  # Apart, since transformers imports every torchvision that it finds.
        if not folder.is_dir():
            if os.environ.get("JAXTL_REAL_PACKAGES_REQUIRED"):
                pytest.fail(f"no {folder}")
            pytest.skip(f"no {folder}; .ci/real_packages installs it")
        sys.path.append(str(folder))
    return importlib.import_module("jax2onnx")


def _find(name: str) -> ModuleType:
    if not (FOLDER / name).is_dir():
        if os.environ.get("JAXTL_REAL_PACKAGES_REQUIRED"):
            pytest.fail(f"no {name} in {FOLDER}")
        pytest.skip(f"no {name} in {FOLDER}; .ci/real_packages installs it")
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        # Where torchvision's own operators do not load beside this PyTorch, its import needs them declared. Where they
        # do, a declaration before them would end the process.
        if "torchvision::" not in str(error):
            raise
    for module in [module for module in sys.modules if module.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[module]
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    return importlib.import_module(name)


def litert() -> dict[str, str]:
    """Gives the environment of a process that finds LiteRT's converter, interpreter and quantizer."""
    folder = FOLDER / "litert"
    if not (folder / "litert_converter").is_dir():
        if os.environ.get("JAXTL_REAL_PACKAGES_REQUIRED"):
            pytest.fail(f"no litert_converter in {folder}")
        pytest.skip(f"no litert_converter in {folder}; .ci/real_packages installs it")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent), str(folder)]),
    }
