"""Pretrained weights: locate, read, rename, load, with an account of every array."""

from jaxtl.preprocessing import Pixels, resolve_pixels
from jaxtl.pretrained.architecture import UnknownArchitecture
from jaxtl.pretrained.load import examine, initialise, load_pretrained
from jaxtl.pretrained.native import native_facts, native_leaves, save_native
from jaxtl.pretrained.open import Weights, from_native, open_weights
from jaxtl.pretrained.report import LoadReport
from jaxtl.pretrained.resolve import resolve_model

__all__ = [
    "LoadReport",
    "Pixels",
    "UnknownArchitecture",
    "Weights",
    "examine",
    "from_native",
    "initialise",
    "load_pretrained",
    "native_facts",
    "native_leaves",
    "open_weights",
    "resolve_model",
    "resolve_pixels",
    "save_native",
]
