"""The arrays of weight files, whatever their format: shapes at once, numbers when they are asked for."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

Loader = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Arrays(Mapping[str, np.ndarray]):
    """The arrays of one or several files, by name; each look-up reads that array anew.

    Attributes:
      format: "safetensors", "npz", "torch" or "hdf5".
      shapes: the shape of each array, known without reading it.
      loaders: what reads each array.
      metadata: what the file says about itself.
    """

    format: str
    shapes: dict[str, tuple[int, ...]]
    loaders: dict[str, Loader]
    metadata: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.loaders[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
