"""A function of variables and images, compiled once for each batch size; any number of threads may call it."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


class Programs:
    """Computes rows in batches of a few sizes: powers of two, and the largest. What is missing of one is filled up.

    Each size is compiled when it is first needed, by one thread, while others wait for it.
    """

    def __init__(self, function: Callable[[Any, jax.Array], jax.Array], variables: Any, batch_size: int):
        """Takes a pure function of (variables, rows [B, ...]) -> [B, ...], its variables, and the largest B."""
        self.sizes = (*(2**power for power in range((batch_size - 1).bit_length())), batch_size)
        self._function, self._variables = jax.jit(function), variables
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._lock = threading.Lock()

    @property
    def compiled(self) -> tuple[int, ...]:
        """The batch sizes that are compiled, in order."""
        return tuple(sorted(shape[0] for shape in self._compiled))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Returns what the function gives for rows [N, ...], of any number above 0, as float32."""
        found, first = [], 0
        while first < len(rows):
            part = rows[first : first + self.sizes[-1]]
            found.append(np.asarray(self._batch(part), np.float32)[: len(part)])
            first += len(part)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _batch(self, rows: np.ndarray) -> jax.Array:
        size = next(size for size in self.sizes if size >= len(rows))
        if size > len(rows):
            rows = np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])
        program = self._compiled.get(rows.shape) or self._compile(rows)
        result: jax.Array = program(self._variables, rows)
        return result

    def _compile(self, rows: np.ndarray) -> Any:
        with self._lock:
            if rows.shape not in self._compiled:
                shape = jax.ShapeDtypeStruct(rows.shape, rows.dtype)
                self._compiled[rows.shape] = self._function.lower(self._variables, shape).compile()
            return self._compiled[rows.shape]
