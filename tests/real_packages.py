"""The real torchvision and timm, which the parity tests compare with, from a folder beside the tests' environment.

`.ci/real_packages` fills that folder. Where it is missing, tests that need it are skipped, but for CI, where they fail.
"""

import importlib
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


def _find(name: str) -> ModuleType:
    if not (FOLDER / name).is_dir():
        if os.environ.get("JAXTL_REAL_PACKAGES_REQUIRED"):
            pytest.fail(f"no {name} in {FOLDER}")
        pytest.skip(f"no {name} in {FOLDER}; .ci/real_packages installs it")
    if str(FOLDER) not in sys.path:
        import torch

        # Those of torchvision itself do not load beside a PyTorch without CUDA, and its import needs them declared.
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)
