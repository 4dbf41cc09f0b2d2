"""Pretrained weights: locate, read, rename, adopt, with an account of every array."""

from jaxtl.preprocessing import Pixels, resolve_pixels
from jaxtl.weights.adopt import adopt, examine, initialise
from jaxtl.weights.export import save_huggingface, save_timm
from jaxtl.weights.native import native_facts, save_native
from jaxtl.weights.passport import Passport
from jaxtl.weights.resolve import resolve_model
from jaxtl.weights.source import Weights, from_native, open_weights

__all__ = [
    "Passport",
    "Pixels",
    "Weights",
    "adopt",
    "examine",
    "from_native",
    "initialise",
    "native_facts",
    "open_weights",
    "resolve_model",
    "resolve_pixels",
    "save_huggingface",
    "save_native",
    "save_timm",
]
