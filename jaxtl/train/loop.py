"""The loop around the step: logs, evaluations, checkpoints, early stopping, and exact continuation."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, SupportsFloat, TypeAlias

import jax
import numpy as np

from jaxtl.checkpoints.frozen import Frozen
from jaxtl.checkpoints.manager import Checkpoints
from jaxtl.checkpoints.retention import Score
from jaxtl.errors import Stopped, UserError
from jaxtl.parallel.partitioner import Partitioner
from jaxtl.parallel.state_step import as_taken, tree_of
from jaxtl.train import ema
from jaxtl.train.log import MetricsLog, Pictures
from jaxtl.train.progress import Progress
from jaxtl.train.saving import save
from jaxtl.train.screen import Screen
from jaxtl.train.state import Step, TrainState
from jaxtl.train.update_sizes import trainable_leaves, update_sizes
from jaxtl.trees import Params

# So many steps without a finite gradient are no accident that the next batch fixes, nor a loss scale that is too large:
# that takes at most 15 halvings.
_MAX_SKIPPED = 50
_REMEDY = "Lower the learning_rate, or set clip_norm or longer warmup_steps."
_REMEDIES = ("learning_rate", "clip_norm", "warmup_steps")


class Diverged(UserError):
    """The loss or the gradient of a run is not finite; the last good checkpoint stays."""


def eval_steps(total_steps: int, *, every: int = 0, steps_per_epoch: float = 0.0) -> list[int]:
    """Returns the steps after which to evaluate: every `every` steps, or at each epoch's end, and always the last."""
    if every:
        evaluation_steps = set(range(every, total_steps + 1, every))
    else:
        epochs = math.ceil(total_steps / steps_per_epoch)
        evaluation_steps = {math.ceil(epoch * steps_per_epoch) for epoch in range(1, epochs + 1)}
    return sorted({mark for mark in evaluation_steps if mark <= total_steps} | {total_steps})


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      metrics: of the validation split.
      pictures: of what was found, by name; each is drawn only if it is shown.
    """

    metrics: Mapping[str, float]
    pictures: Pictures = field(default_factory=dict)


# Variables -> what was found on the validation split.
Evaluate: TypeAlias = Callable[[Mapping[str, Params]], Evaluation]


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How long a run trains, and what it looks at on the way.

    Attributes:
      total_steps: the last step of the run.
      stop_at: the step to stop at, for a run in stages; 0 for the last.
      eval_at: steps after which to evaluate and write a checkpoint.
      batch_size: rows of the global batch.
      learning_rate: step -> rate of the head, for the log.
      log_every: steps between training lines.
      monitor: the validation metric that decides what is best: higher is better, but for "loss"; among equals the lower
        loss. "last": none does, the last evaluation is best.
      patience: evaluations without a better one after which to stop; 0 for never.
      best_from: the first step that may be the best: what comes before is another network, such as one that is not
        pruned to its end.
      groups: path of each parameter -> its group, or "frozen", for the log to get the sizes of updates in the step
        before each evaluation; empty for none. In all processes alike.
    """

    total_steps: int
    stop_at: int = 0
    eval_at: Sequence[int]
    batch_size: int
    learning_rate: Callable[[int], float]
    log_every: int = 50
    monitor: str = "accuracy"
    patience: int = 0
    best_from: int = 0
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outputs:
    """Where a run writes.

    Attributes:
      checkpoints: where checkpoints go.
      log: where metrics go.
      screen: what a person sees.
      frozen: what no step changes, for checkpoints to hold once.
    """

    checkpoints: Checkpoints
    log: MetricsLog
    screen: Screen
    frozen: Frozen = field(default_factory=Frozen)


def fit(
    state: TrainState,
    *,
    progress: Progress,
    step: Step,
    batches: Iterator[Mapping[str, np.ndarray]],
    evaluate: Evaluate,
    partitioner: Partitioner,
    options: LoopOptions,
    outputs: Outputs,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[TrainState, Progress]:
    """Trains from the state's step to `options.stop_at`, or until `patience` evaluations brought nothing better.

    Args:
      state: on the devices; its buffers are given away.
      progress: from the restored checkpoint, or new; it is changed in place.
      step: compiled train step.
      batches: this host's rows of the global batches, from the one after the state's step on.
      evaluate: variables -> what was found on the validation split; called for the averages too, where there are some.
      partitioner: how batches get to the devices.
      options: of the loop.
      outputs: checkpoints, log and screen.
      stop: asked after each step whether the run is to be left; in all processes alike.

    Returns:
      The last state and the progress.

    Raises:
      Diverged: the loss is not finite, or the gradients of many steps are not; the last good checkpoint stays.
      Stopped: `stop` said so, or an evaluation was left; the state is saved.
    """
    checkpoints, log, screen = outputs.checkpoints, outputs.log, outputs.screen
    done = int(partitioner.gather(state.step))
    pending: list[tuple[int, Mapping[str, jax.Array]]] = []
    started, counted = time.perf_counter(), 0

    def settle(keep: int) -> None:
        # Scalars are fetched a step late, so that an accelerator always has its next step queued.
        while len(pending) > keep:
            at, scalars = pending.pop(0)
            _collect(progress, at, jax.device_get(partitioner.gather(scalars)), checkpoints)

    def leave() -> NoReturn:
        settle(keep=0)
        log.sync()
        if checkpoints.steps()[-1:] != [done]:
            save(checkpoints, done, partitioner.gather(tree_of(state)), progress, None, outputs.frozen)
        raise Stopped(f"stopped after step {done} of {options.total_steps}")

    while True:
        if progress.due:
            try:
                found = _evaluate(evaluate, tree_of(state))
            except Stopped:
                progress.spend("evaluate")
                leave()
            score = _note(progress, done, found, options, outputs)
            progress.due, progress.finished = False, progress.finished or done == options.total_steps
            progress.spend("evaluate")
            log.sync()
            save(checkpoints, done, partitioner.gather(tree_of(state)), progress, score, outputs.frozen)
            progress.spend("checkpoint")
            started, counted = time.perf_counter(), 0
        if done >= (options.stop_at or options.total_steps) or progress.finished:
            return tree_of(state), progress
        asked = time.perf_counter()
        batch = partitioner.shard_batch(next(batches))
        if _are_idle(pending):
            # At most: the step before may have ended at any time while the batch was made.
            progress.seconds["data"] = progress.seconds.get("data", 0.0) + time.perf_counter() - asked
        measured = options.groups if done + 1 in options.eval_at else {}
        before = trainable_leaves(tree_of(state), partitioner, measured) if measured else {}
        state, scalars = step(as_taken(state, step), batch)
        done += 1
        if measured:
            after = trainable_leaves(tree_of(state), partitioner, measured)
            log.histograms(done, update_sizes(before, after, measured))
        counted += options.batch_size
        pending.append((done, scalars))
        settle(keep=1)
        screen.advance()
        if done % options.log_every == 0 or done in options.eval_at:
            settle(keep=0)
            elapsed = time.perf_counter() - started
            _train_line(progress, done, options.learning_rate(done - 1), counted / elapsed, outputs)
        progress.due = done in options.eval_at
        stopping = stop()
        if progress.due or stopping:
            progress.spend("train")
            progress.images += counted
        if stopping:
            leave()


def _are_idle(pending: list[tuple[int, Mapping[str, jax.Array]]]) -> bool:
    """Tells whether the devices have nothing left to do: all steps that were handed to them are done."""
    arrays: list[Any] = [x for _, scalars in pending for x in scalars.values() if isinstance(x, jax.Array)]
    return all(x.is_ready() for x in arrays)


def _collect(progress: Progress, step: int, scalars: Mapping[str, SupportsFloat], checkpoints: Checkpoints) -> None:
    values = {key: float(value) for key, value in scalars.items()}
    if values.pop("skipped", 0.0):
        return _skip(progress, step)
    progress.skipped_in_a_row = 0
    # The loss comes from before the step's update: only the gradient tells whether what follows is sound.
    for key, name in (("loss", "loss"), ("grad_norm", "norm of the gradient")):
        if not math.isfinite(values[key]):
            raise _diverged(f"the {name} is {values[key]} at step {step}", checkpoints)
    for key, value in values.items():
        progress.window[key] = progress.window.get(key, 0.0) + value
    progress.window["steps"] = progress.window.get("steps", 0) + 1


def _diverged(what: str, checkpoints: Checkpoints) -> Diverged:
    kept = checkpoints.steps()
    last = f"the last good checkpoint is step {kept[-1]}" if kept else "there was no checkpoint yet"
    return Diverged(f"{what}; {last}. {_REMEDY}", arguments=_REMEDIES)


def _skip(progress: Progress, step: int) -> None:
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    progress.window["skipped"] = progress.window.get("skipped", 0) + 1
    if progress.skipped_in_a_row >= _MAX_SKIPPED:
        raise Diverged(
            f"{_MAX_SKIPPED} steps one after the other, up to step {step}, had a gradient that is not finite. "
            f"{_REMEDY}",
            arguments=_REMEDIES,
        )


def _train_line(progress: Progress, step: int, rate: float, speed: float, outputs: Outputs) -> None:
    window, progress.window = progress.window, {}
    steps, skipped = window.pop("steps", 0), window.pop("skipped", None)
    if not steps and skipped is None:
        return
    values = {key: value / steps for key, value in window.items()} | {"learning_rate": rate}
    if skipped is not None:
        values["skipped"] = skipped
    if steps:  # Where all steps were left out there is no loss: results keep the last one.
        progress.train = values
    outputs.log.write(step, "train", values, {"images_per_second": speed})
    outputs.screen.line(step, "train", values | {"images_per_second": speed})


def _evaluate(evaluate: Evaluate, state: TrainState) -> dict[str, Evaluation]:
    found = {"raw": evaluate(state.variables)}
    if state.ema:
        found["ema"] = evaluate(ema.averaged(state.variables, state.ema))
    return found


def _note(
    progress: Progress, step: int, found: dict[str, Evaluation], options: LoopOptions, outputs: Outputs
) -> Score | None:
    """Writes the metrics of an evaluation down, shows its pictures, and returns its score; None if none counts yet."""
    metrics = {kind: dict(evaluation.metrics) for kind, evaluation in found.items()}
    if not math.isfinite(metrics["raw"]["loss"]):
        raise _diverged(f"the loss on val is {metrics['raw']['loss']} at step {step}", outputs.checkpoints)
    for kind, values in metrics.items():
        split = "val" if kind == "raw" else f"val_{kind}"
        outputs.log.write(step, split, values)
        outputs.screen.line(step, split, values)
    outputs.screen.table()
    score = None
    if step >= options.best_from:
        score = _judge(progress, step, metrics, options.monitor, options.patience)
    outputs.log.pictures(step, found["ema" if progress.averaged else "raw"].pictures)
    return score


def _judge(
    progress: Progress, step: int, metrics: dict[str, dict[str, float]], monitor: str, patience: int
) -> tuple[float, ...]:
    """Takes note of which weights won, and whether they are the best so far; returns their score."""
    winner = max(metrics, key=lambda kind: score_of(metrics[kind], monitor, step))
    score = score_of(metrics[winner], monitor, step)
    progress.averaged = winner == "ema"
    best = score_of(progress.val, monitor, progress.best_step) if progress.val else None
    # An equal accuracy at a lower loss is a better checkpoint, but no reason to train on.
    improved = best is None or score[0] > best[0]
    if best is None or score > best:
        progress.val, progress.best_step = metrics[winner], step
        progress.both = {**metrics, "won": winner} if len(metrics) > 1 else {}
    progress.waited = 0 if improved else progress.waited + 1
    progress.finished |= 0 < patience <= progress.waited
    return score


def score_of(metrics: Mapping[str, float], monitor: str, step: int) -> tuple[float, ...]:
    """Returns what is compared: the monitor, and among equals of it the loss, which is finer on few images."""
    loss = -metrics["loss"]
    if monitor == "loss":
        return (loss,)
    return (float(step) if monitor == "last" else metrics[monitor], loss)
