"""The learning-rate range test, https://arxiv.org/abs/1506.01186: a rate that grows with every step."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxtl.finetune.param_groups import FROZEN
from jaxtl.train.state import Batch, Step, TrainState
from jaxtl.trees import flatten, nest

# Steps of one scan: its batches lie in memory together, and a sweep that has diverged ends with it.
CHUNK = 10
# Fewer would leave no descent to read between start and divergence.
MIN_STEPS = 20
_SMOOTHING = 0.9
_DIVERGED = 1.5
# Of the descent of a sweep, what is behind where its rate is recommended; and how many times the change from step to
# step a loss has to fall, to have fallen at all: of 300 sweeps of 100 steps that were noise alone, none did.
_FALLEN, _NOISE = 0.6, 2.0


def exponential(low: float, high: float, steps: int) -> Callable[[ArrayLike], jax.Array]:
    """Returns step -> rate, growing by a constant factor from `low` at step 0 to `high` at step `steps` - 1."""
    growth = np.log(high / low) / max(1, steps - 1)
    return lambda step: low * jnp.exp(growth * jnp.asarray(step))


def masked(
    optimizer: optax.GradientTransformation, owners: Mapping[str, str], masks: Mapping[str, jax.Array]
) -> optax.GradientTransformationExtraArgs:
    """Multiplies each update by the mask of its group: 0 keeps a group where it is, 1 lets it train.

    Args:
      optimizer: over the whole tree of parameters.
      owners: path -> group.
      masks: group -> scalar; may be traced, so that one program serves all groups.
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra: object
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = inner.update(updates, state, params, **extra)
        scaled = {path: leaf * masks[owners[path]].astype(leaf.dtype) for path, leaf in flatten(updates).items()}
        return nest(scaled), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def sweep(
    make_step: Callable[[Mapping[str, jax.Array]], Step],
    state: TrainState,
    batches: Callable[[], Iterator[Batch]],
    *,
    steps: int,
    masks: Mapping[str, Mapping[str, float]],
) -> dict[str, np.ndarray]:
    """Trains once for each set of masks, from the same state on the same batches; the state itself stays as it is.

    Args:
      make_step: masks -> step, whose optimizer has the rate of `exponential`.
      state: on the devices, before its first step.
      batches: begins the batches, each on the devices.
      steps: of each sweep.
      masks: name of a sweep -> group -> 0 or 1.

    Returns:
      Name -> the losses [n], n at most `steps`: a sweep ends early where it has diverged.
    """

    @jax.jit
    def run(state: TrainState, stacked: Batch, masks: Mapping[str, jax.Array]) -> tuple[TrainState, jax.Array]:
        def body(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
            state, scalars = make_step(masks)(state, batch)
            return state, scalars["loss"]

        return jax.lax.scan(body, state, stacked)

    found = {}
    for name, chosen in masks.items():
        now, losses, stream = state, np.empty(0), batches()
        values = {group: jnp.float32(mask) for group, mask in chosen.items()}
        while len(losses) < steps and not np.isfinite(diverged_at(losses)):
            part = [next(stream) for _ in range(min(CHUNK, steps - len(losses)))]
            now, more = run(now, jax.tree.map(lambda *rows: jnp.stack(rows), *part), values)
            losses = np.append(losses, np.asarray(more, np.float64))
        found[name] = losses
    return found


def smooth(losses: np.ndarray) -> np.ndarray:
    """Returns the moving average of the losses [n] with decay 0.9, free of the bias of its start."""
    average, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        smoothed.append(average / (1 - _SMOOTHING**step))
    return np.asarray(smoothed)


def diverged_at(losses: np.ndarray) -> float:
    """Returns the first step whose smoothed loss is not finite or 1.5 times that of the start; infinity if none is."""
    if not len(losses):
        return np.inf
    smoothed = smooth(losses)
    bad = ~np.isfinite(smoothed) | (smoothed > _DIVERGED * smoothed[0])
    return float(np.argmax(bad)) if bad.any() else np.inf


@dataclass(frozen=True)
class Recommendation:
    """A learning rate, and why.

    Attributes:
      rate: the rate; None where the sweep shows none.
      reason: what the loss did there, in a line.
      warning: what makes it doubtful, and what to do; "" for nothing.
    """

    rate: float | None
    reason: str
    warning: str = ""


def recommend(rates: np.ndarray, losses: np.ndarray) -> Recommendation:
    """Recommends a rate: the one at which the loss of a sweep has lost six tenths of what it loses in all.

    It is found on losses smoothed to both sides, which unlike a running average moves nothing to higher rates. A share
    of the whole descent depends on all of the losses, where a mark such as the steepest place, or a tenth of the rate
    of the lowest, depends on a few. Measured over 20 seeds of ten sweeps of 100 steps (a linear head, and networks with
    one hidden layer, by AdamW and SGD, batches of 8 and 32): the highest recommendation is 1.0 to 2.5 times the lowest
    in nine of them, and 4.4 times in the tenth, whose loss hardly falls. The marks of `suggest` differ by up to 1,177
    times ("steepest"), 977 ("valley") and 16 ("minimum/10"). In runs of 300 steps the recommended rate gains as much as
    the best of 29, but for 2 % at most in eight of the ten, and for 8 and 29 % where the loss hardly falls.

    Args:
      rates: [n], growing.
      losses: [n], as they came.
    """
    end = diverged_at(losses)
    if end < 2:
        return Recommendation(
            None,
            f"the loss is not finite, or grows, from the first steps on: it diverges at {rates[int(end)]:.2g}",
            "Give a range that begins lower.",
        )
    kept = len(losses) if np.isinf(end) else int(end)
    losses, smoothed = losses[:kept], _smooth_both_ways(losses[:kept], width=max(1.0, len(losses) / 25))
    start, lowest = float(losses[: max(2, len(rates) // 5)].mean()), int(np.argmin(smoothed))
    fall = start - float(smoothed[lowest])
    diverges = "" if np.isinf(end) else f"; it diverges at {rates[int(end)]:.2g}"
    # Of the middle of all changes, since those about to diverge are large.
    if fall <= _NOISE * float(np.median(np.abs(np.diff(losses)))):
        return Recommendation(
            None,
            f"the loss never falls from its {start:.4g} by more than its noise{diverges}",
            "Give a wider range or more steps, and see whether the data and what trains are as they should be."
            if np.isinf(end)
            else "Give a range that begins lower, or more steps.",
        )
    below = smoothed[: lowest + 1] <= start - _FALLEN * fall
    # Between where it is first below and last above, which differ where it goes up and down.
    at = np.sqrt(rates[int(np.argmax(below))] * rates[min(lowest, int(lowest + 1 - np.argmin(below[::-1])))])
    reason = (
        f"there the loss has fallen by {_FALLEN:.0%} of what it falls in the sweep, from {start:.4g} to "
        f"{smoothed[lowest]:.4g} at {rates[lowest]:.2g}{diverges}"
    )
    falling = np.isinf(end) and lowest == kept - 1
    warning = "The loss still falls at the end of the sweep: give a range that ends higher." if falling else ""
    return Recommendation(float(at), reason, warning)


def _smooth_both_ways(losses: np.ndarray, *, width: float) -> np.ndarray:
    """Returns the averages of the losses [n] under normal distributions around each step."""
    steps = np.arange(len(losses))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / width) ** 2)
    return weights @ losses / weights.sum(1)


def suggest(rates: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """Reads rates off a sweep.

    Args:
      rates: [n], growing.
      losses: [n], as they came.

    Returns:
      "steepest": where the smoothed loss falls fastest per factor of the rate; "valley": in the middle of its longest
      descent; "minimum/10": a tenth of the rate of the lowest; and, if it was reached, "diverges".
    """
    end = diverged_at(losses)
    kept = len(losses) if np.isinf(end) else max(2, int(end))
    smoothed, logs = smooth(losses)[:kept], np.log(rates[:kept])
    suggestions = {
        "steepest": float(rates[np.argmin(np.gradient(smoothed, logs))]),
        "valley": float(rates[_valley(smoothed)]),
        "minimum/10": float(rates[int(np.argmin(smoothed))] / 10),
    }
    return suggestions if np.isinf(end) else {**suggestions, "diverges": float(rates[int(end)])}


def _valley(smoothed: np.ndarray) -> int:
    """Returns the middle of the longest run of steps in which the loss falls."""
    start, best = 0, (0, 0)
    for step in range(1, len(smoothed) + 1):
        if step == len(smoothed) or smoothed[step] >= smoothed[step - 1]:
            best = max(best, (start, step - 1), key=lambda ends: ends[1] - ends[0])
            start = step
    return (best[0] + best[1]) // 2


def masks_for(owners: Mapping[str, str], labels: Mapping[str, str], *, per_group: bool) -> dict[str, dict[str, float]]:
    """Returns the masks of `sweep`: of one sweep called "all", or of one for each group that trains."""
    groups = list(dict.fromkeys(owners.values()))
    if not per_group:
        return {"all": dict.fromkeys(groups, 1.0)}
    trained = list(dict.fromkeys(owners[path] for path in owners if labels[path] != FROZEN))
    return {name: {group: float(group == name) for group in groups} for name in trained}
