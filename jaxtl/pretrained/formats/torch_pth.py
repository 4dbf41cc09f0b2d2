"""Reads PyTorch's .pth, .th and .bin files: plain tensors only, never a pickle that could run code."""

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxtl.errors import UserError
from jaxtl.pretrained.formats.arrays import Arrays

_WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def read_torch(path: Path) -> Arrays:
    """Opens a state dict, also inside the usual wrappers (`state_dict`, `model`) and prefixes (`module.`).

    Raises:
      UserError: torch is not installed, or the file is broken or holds more than plain tensors.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise UserError(f"reading {path} needs PyTorch: pip install 'jaxtl[torch]'.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds Python objects besides plain tensors, which can run code when read, so it was not read; "
            f"save its state_dict alone with torch.save or safetensors."
        ) from None
    except Exception as error:  # A broken pickle fails in as many ways as it has bytes.
        raise UserError(f"{path} is a broken PyTorch file (truncated in the transfer?): {str(error)[:100]}") from None
    tensors = _unwrap(content)
    if not tensors:
        raise UserError(f"{path} holds no state dict: expected names and tensors, at the top or under {_WRAPPERS}.")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Arrays("torch", shapes, {name: _loader(tensor) for name, tensor in tensors.items()})


def _unwrap(content: Any) -> dict[str, Any]:
    import torch

    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        return {}
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _loader(tensor: Any) -> Callable[[], np.ndarray]:
    import torch

    def load() -> np.ndarray:
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    return load
