"""Which form of attention is the fastest on this card: timed for the shapes of a run, and kept for other runs."""

import contextlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.models.layers.attention import FORMS, attend, capability, fits_cudnn, padded_tokens, refused
from jaxtl.parallel.backend import backend

FILE = "attention.json"
# Attention scores of a timed call: 144 images of a ViT-B/16 keep every card busy, and take a few milliseconds.
_MOST_SCORES = 2**26
# The best of so many rounds counts. Calls of a round are queued, so that the time to start one is hidden.
_ROUNDS, _CALLS = 5, 8


@dataclass(frozen=True)
class Workload:
    """Self-attention as each block of a run computes it on one device.

    Attributes:
      batch: images on one device.
      tokens: of an image, without padding.
      heads: number of heads.
      head_width: channels of a head.
      dtype: of queries, keys and values, such as "bfloat16".
      train: whether gradients are computed too.
    """

    batch: int
    tokens: int
    heads: int
    head_width: int
    dtype: str
    train: bool

    def capped(self) -> "Workload":
        """Gives the same with no more images than a timing needs."""
        return replace(self, batch=max(1, min(self.batch, _MOST_SCORES // (self.heads * self.tokens**2))))

    def shape(self, form: str) -> tuple[int, int, int, int]:
        """Gives the shape [B, N, H, d] of what a form of attention takes, with the padding that it wants."""
        return self.batch, padded_tokens(form, self.tokens), self.heads, self.head_width

    def __str__(self) -> str:
        alone = "" if self.train else ", forward alone,"
        return f"{self.batch} x {self.tokens} tokens of {self.dtype}{alone}"


def choose(workload: Workload, folder: Path | None = None, *, budget_seconds: float = 5.0) -> str:
    """Gives the fastest form of attention for a workload, and prints the times of all.

    Args:
      workload: of the run; of a large batch, a part is timed.
      folder: where the times are kept, so that each card measures a shape once; None keeps nothing.
      budget_seconds: for the timing.

    Returns:
      One of `jaxtl.models.layers.attention.FORMS`; "auto" where none could be timed.
    """
    workload = workload.capped()
    card = jax.local_devices()[0].device_kind
    key = f"{card}, jax {jax.__version__}, {workload.heads} heads of {workload.head_width}, {workload}"
    path = folder / FILE if folder else None
    times, origin = _kept(path).get(key, {}), "cached"
    if not times:
        times, origin = measure(workload, budget_seconds=budget_seconds), "measured"
        # What the budget left out gets its chance in the next run.
        if path and set(times) == set(candidates(workload)):
            _keep(path, key, times)
    if not times:
        print(f"attention: no form could be timed for {workload} on {card}: cuDNN's is used if it fits, else XLA's")
        return "auto"
    ranked = sorted(times, key=lambda form: times[form])
    shown = [f"{form} {1e3 * times[form]:.3g}" for form in ranked]
    print(f"attention: {', '.join([f'{shown[0]} ms', *shown[1:]])} for {workload} on {card} ({origin})")
    return ranked[0]


def measure(
    workload: Workload, *, budget_seconds: float = 5.0, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Gives the seconds that one call takes, for each form that could be timed.

    Args:
      workload: what to time.
      budget_seconds: once they are spent, no further form is begun, and the others are left out.
      clock: gives the time in seconds.
    """
    begun = clock()
    times: dict[str, float] = {}
    for form in candidates(workload):
        if clock() - begun >= budget_seconds:
            break
        try:
            times[form] = _time(form, workload)
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).partition("\n")[0][:200]
            warnings.warn(f"attention {form!r} cannot be timed for {workload}: {reason}", stacklevel=2)
    return times


def candidates(workload: Workload) -> tuple[str, ...]:
    """Gives the forms that the backend accepts for a workload."""
    return tuple(form for form in FORMS if _is_accepted(form, workload))


def _is_accepted(form: str, workload: Workload) -> bool:
    shape, dtype = workload.shape(form), jnp.dtype(workload.dtype)
    if form == "cudnn":
        sizes = {"head_width": workload.head_width, "queries": shape[1], "keys": shape[1]}
        if not fits_cudnn(backend(), dtype, capability=capability(), **sizes):
            return False
    array = jax.ShapeDtypeStruct(shape, dtype)
    return not refused(form, array, array, array, workload.tokens)


def _time(form: str, workload: Workload) -> float:
    """Gives the seconds of one call, compiling aside: forwards, and backwards if the workload trains."""

    def call(query: jax.Array, key: jax.Array, value: jax.Array, cotangent: jax.Array) -> Any:
        def forward(*parts: jax.Array) -> jax.Array:
            return attend(*parts, form=form, real=workload.tokens)

        if not workload.train:
            return forward(query, key, value)
        result, backward = jax.vjp(forward, query, key, value)
        return result, backward(cotangent)

    # One image over and over: to draw all of them would take longer than the calls.
    batch, *image = workload.shape(form)
    drawn = np.random.default_rng(0).standard_normal(image, np.float32).astype(jnp.dtype(workload.dtype))
    numbers = np.ascontiguousarray(np.broadcast_to(drawn, (batch, *image)))
    arrays = [jax.device_put(numbers) for _ in range(4)]
    compiled = jax.jit(call).lower(*arrays).compile()
    jax.block_until_ready(compiled(*arrays))
    best = math.inf
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        jax.block_until_ready([compiled(*arrays) for _ in range(_CALLS)][-1])
        best = min(best, (time.perf_counter() - begun) / _CALLS)
    return best


def _kept(path: Path | None) -> dict[str, dict[str, float]]:
    """Reads the times that were kept; a damaged file holds none."""
    if path is None:
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: times for key, times in known.items() if _are_times(times)} if isinstance(known, dict) else {}


def _are_times(value: Any) -> bool:
    return isinstance(value, dict) and all(form in FORMS and isinstance(time, float) for form, time in value.items())


def _keep(path: Path, key: str, times: Mapping[str, float]) -> None:
    """Adds times to those that are kept. What cannot be written is measured again next time."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**_kept(path), key: times}, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
