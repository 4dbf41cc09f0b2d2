"""Pretrained weights: locate, read, rename, adopt, with an account of every array."""

from jaxtl.preprocessing import Pixels, resolve_pixels
from jaxtl.pretrained.load import adopt, examine, initialise
from jaxtl.pretrained.native import native_facts, save_native
from jaxtl.pretrained.open import Weights, from_native, open_weights
from jaxtl.pretrained.report import Passport
from jaxtl.pretrained.resolve import resolve_model

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
    "save_native",
]
