"""How other programs name and lay out the arrays of a model: tables that are read in both directions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtl.preprocessing import PixelDefaults

Rows = tuple[tuple[str, str, str], ...]
"""Rows (source, target, kind): the path of a layer in the source's files, its path in the variables, and what it is.

`{i}` in both paths stands for the same number, `{i+1}` for that number plus one. The kinds are those of
`jaxtl.pretrained.layouts.LEAVES`: "dense", "conv", "norm", "batchnorm", "array" and so on.
"""


COUNTERS = (r".*\.num_batches_tracked",)
"""PyTorch counts in each of its batch normalisations how many batches it has seen; nothing here reads it."""


# Compared by identity: each convention exists once.
@dataclass(frozen=True, eq=False)
class KeyMapping:
    """One convention for names, and what a file in that convention says about the function it holds.

    Attributes:
      name: the name shown to users, such as "timm".
      layout: whose leaf names and axis order the arrays have: "torch", "flax" or "keras".
      rows: the rename rules.
      prefixes: what may stand before every name; the first one is written on export.
      fields: fields of the model that these files imply, such as its epsilon.
      pixels: how these files expect their pixels; None if they leave it open.
      unused: patterns of arrays that are no part of the classifier and are left out, each listed in the load report.
      pooled: layers of the source that read pooled features here, where others may put them before the pooling.
      positions: how this convention's own code resizes position embeddings (see `resize_positions`).
      ending: the classes of Keras' layers without arrays that the network has after its last convolution, beside
        activations: without its top, too.
      refine: where files of some sizes imply more, gives their convention from the shapes of our leaves.
    """

    name: str
    layout: str
    rows: Rows
    prefixes: tuple[str, ...] = ("",)
    fields: Mapping[str, Any] = field(default_factory=dict)
    pixels: PixelDefaults | None = None
    unused: tuple[str, ...] = ()
    positions: str = "antialiased"
    refine: Callable[[Mapping[str, tuple[int, ...]]], "KeyMapping"] | None = None
    pooled: tuple[str, ...] = ()
    ending: tuple[str, ...] = ()


# What changes no function: sizes of both ends, what is dropped in training, how it is initialised, the usual pooling.
_TIMM_HARMLESS = ("num_classes", "in_chans", "drop_rate", "drop_path_rate", "zero_init_last")
_TIMM_USUAL = {"global_pool": "avg", "output_stride": 32}


def refuse_timm_changes(arguments: Mapping[str, Any]) -> None:
    """Sees to it that arguments of timm's create_model leave the function of the architecture as it is.

    Raises:
      ValueError: one may change it; it names it and its value.
    """
    for key, value in arguments.items():
        if key not in _TIMM_HARMLESS and _TIMM_USUAL.get(key) != value:
            raise ValueError(f"{key}={value!r}")
