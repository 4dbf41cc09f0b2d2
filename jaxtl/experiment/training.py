"""A run from where it stands to its end: restored, trained stage by stage, and its best evaluated on val and test."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtl.checkpoints.manager import Checkpoints, read_best
from jaxtl.data.loader import Batch
from jaxtl.evaluate.evaluator import Evaluator
from jaxtl.evaluate.metrics import compute_metrics, summary
from jaxtl.evaluate.multilabel import mean_average_precision
from jaxtl.experiment import lr_sweep, pictures, steps
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.calibrating import calibrate
from jaxtl.experiment.head_start import begins_with_probe, is_comparable, start_from_probe, why_zeros
from jaxtl.experiment.input_pipeline import Inputs, make_inputs
from jaxtl.experiment.log_writers import open_writers
from jaxtl.experiment.measuring import can_keep, measure, write_predictions
from jaxtl.experiment.results import results_of
from jaxtl.experiment.summary import saved_work
from jaxtl.experiment.thresholds import with_thresholds
from jaxtl.finetune.stages import Stage, stage_of
from jaxtl.parallel import processes
from jaxtl.profiling.cost import Cost, memory_cost
from jaxtl.train import loop
from jaxtl.train.carry_over import carry_over
from jaxtl.train.log import MetricsLog
from jaxtl.train.progress import Progress
from jaxtl.train.saving import frozen_in, restore
from jaxtl.train.screen import Screen
from jaxtl.train.state import TrainState
from jaxtl.train.writers import tensorboard


@dataclass(frozen=True)
class Running:
    """A run under way.

    Attributes:
      experiment: from `start_run`.
      inputs: what its steps read.
      evaluator: of its variables.
      reference: what evaluation and full fine-tuning would cost, being counted.
      outputs: where checkpoints and lines go.
      stop: asked after each step whether the run is to be left.
    """

    experiment: Experiment
    inputs: Inputs
    evaluator: Evaluator
    reference: Future[Cost]
    outputs: loop.Outputs
    stop: Callable[[], bool]


def train_to_end(experiment: Experiment, workdir: Path, *, started: float, stop: Callable[[], bool]) -> dict[str, Any]:
    """Trains to the end and evaluates the best checkpoint on val and test.

    It writes predictions.npz, calibration.json and results.json, and returns what the latter holds.

    Args:
      experiment: from `start_run`.
      workdir: of the run; one that stopped there goes on.
      started: when the command began, by `time.perf_counter`.
      stop: asked after each step whether the run is to be left; in all processes alike.

    Raises:
      Stopped: `stop` said so; the state is saved.
      UserError: the loss is not finite, or a checkpoint cannot be written.
    """
    step, progress, evaluator = _train(experiment, workdir, started, stop)
    results = results_of(experiment, step, progress)
    results["best_step"], best = read_best(workdir)
    variables = experiment.partitioner.shard_state(best)
    splits = {"val": experiment.splits.val, "test": experiment.splits.test}
    measured = {
        name: measure(experiment, evaluator, variables, name, split, stop)
        for name, split in splits.items()
        if split is not None
    }
    # What chose the checkpoint stays as it was, unless that one is damaged, and another was taken.
    chosen = results["val"] if results["best_step"] == progress.best_step else {}
    results |= {name: found.metrics for name, found in measured.items()}
    results["val"] |= chosen
    results |= files.head_start(workdir)
    results |= with_thresholds(experiment, measured)
    write_predictions(workdir, experiment.model.classes, *measured.values())
    results |= calibrate(experiment, workdir, measured, step=results["best_step"])
    progress.spend("evaluate")
    results["seconds"] = {**progress.seconds, "total": progress.total()}
    files.write_json(workdir / "results.json", results)
    processes.gather()  # Nobody reads features any more.
    if processes.is_main():
        shutil.rmtree(workdir / "features", ignore_errors=True)  # Only this run could have used them.
    return results


def _train(
    experiment: Experiment, workdir: Path, started: float, stop: Callable[[], bool]
) -> tuple[int, Progress, Evaluator]:
    """Trains to the end; returns the last step, the progress, and the evaluator."""
    train, partitioner, plan = experiment.config.train, experiment.partitioner, experiment.plan
    if processes.is_main() and experiment.config.log.to:
        tensorboard.begin_import()
        pictures.begin_import()
    keep = {key: train[key] for key in ("keep_latest", "keep_best")}
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", **keep))
        state, progress = _restore(experiment, workdir, checkpoints)
        done = int(state.step)
        progress.begin(started)
        # A run without a checkpoint writes the line of its first evaluation, which may be that of step 0, again.
        begins = not checkpoints.steps()
        evaluated = not progress.due and not begins
        # Before anything takes long: a server may want a login.
        writers = open_writers(experiment, workdir, done=done)
        log = stack.enter_context(MetricsLog(workdir, from_step=done, evaluated=evaluated, writers=writers))
        progress.spend("start")
        epochs = plan.total_steps / experiment.steps_per_epoch
        # What is frozen from beginning to end is as it was read.
        inputs = make_inputs(experiment, workdir, stages=plan.stages, epochs=epochs, began=files.began_cached(workdir))
        progress.spend("features" if inputs.cached else "start")
        files.write_json(workdir / "features.json", {"cached": inputs.cached})
        if train.check_learning_rate and begins:
            # From a head of zeros: where a loss is low already, no rate makes it fall.
            lr_sweep.warn(experiment, inputs, state.variables)
        if begins:
            files.forget_head_start(workdir)  # Of a start that came to nothing.
        if begins and begins_with_probe(experiment):
            experiment, state = _start_head(experiment, inputs, workdir)
            # Its checkpoint holds what follows to its figure: where nothing beats it on val, it is kept.
            progress.due = is_comparable(experiment)
            progress.spend("features")
        elif begins and (reason := why_zeros(experiment)):
            print(f"the head starts from zeros, not from a linear classifier of the features: {reason}")
        state = partitioner.shard_state(state)
        reference = steps.begin_reference_cost(experiment)
        progress.spend("start")
        evaluator = inputs.compile_evaluator(state.variables)
        progress.spend("compile")
        with Screen(
            plan.total_steps,
            start=done,
            batch_size=train.batch_size,
            steps_per_epoch=experiment.steps_per_epoch,
            before=log.kept,
        ) as screen:
            progress.spend("start")
            outputs = loop.Outputs(checkpoints, log, screen)
            running = Running(experiment, inputs, evaluator, reference, outputs, stop)
            batches = inputs.batches(done)
            for stage in plan.stages:
                if done > stage.stop or (done == stage.stop and not progress.due) or progress.finished:
                    continue
                checkpoints.wait()  # What is copied to be written leaves its room to the next stage's program.
                progress.spend("checkpoint")
                state, step = _begin_stage(running, stage, state, progress)
                state, progress = _fit(running, stage, state, progress, step, batches)
                done = stage.stop
        checkpoints.wait()
        progress.spend("checkpoint")
        return int(partitioner.gather(state.step)), progress, evaluator


def _restore(experiment: Experiment, workdir: Path, checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
    """Returns where the run stopped, and says so, or its beginning."""
    plan = experiment.plan

    def fresh(step: int) -> TrainState:
        stage = stage_of(plan.stages, step)
        return steps.make_state(experiment, stage, plan.make_optimizer(stage))

    state, progress = restore(checkpoints, fresh) or (fresh(0), Progress())
    for repair in checkpoints.repairs:
        print(repair)
    for problem in checkpoints.problems:
        print(f"{problem}; the one before it is taken")
    if checkpoints.steps() == [] and (workdir / "metrics.jsonl").exists():
        print("stopped before its first checkpoint was whole: begins again")
    if int(state.step):
        print(f"continues at step {int(state.step)} of {plan.total_steps}")
    return state, progress


def _start_head(experiment: Experiment, inputs: Inputs, workdir: Path) -> tuple[Experiment, TrainState]:
    """Returns the experiment, and its first state, with a head that fits the features."""
    experiment, start = start_from_probe(experiment, inputs)
    files.write_json(workdir / "head_start.json", start.to_json())
    print(
        f"the head starts from a linear classifier of the features of {start.images:,} images, fitted in "
        f"{start.seconds:.1f} s: accuracy on val {100 * start.linear.accuracy:.1f} %"
    )
    stage = experiment.plan.stages[0]
    return experiment, steps.make_state(experiment, stage, experiment.plan.make_optimizer(stage))


def _begin_stage(
    running: Running, stage: Stage, state: TrainState, progress: Progress
) -> tuple[TrainState, Callable[..., Any]]:
    """Returns the state at the stage's start, or further on in it, and its compiled step."""
    experiment, inputs = running.experiment, running.inputs
    plan, partitioner = experiment.plan, experiment.partitioner
    optimizer = plan.make_optimizer(stage)
    if len(plan.stages) > 1:
        number = plan.stages.index(stage) + 1
        print(f"stage {number} of {len(plan.stages)}: steps {stage.start + 1} to {stage.stop}, rates x {stage.rate:g}")
    if stage.start and int(partitioner.gather(state.step)) == stage.start:
        state = partitioner.shard_state(carry_over(partitioner.gather(state), stage, optimizer))
        # What came before cannot count against what has not begun.
        progress.waited = 0
    step = steps.make_step(experiment, stage, optimizer, module=inputs.model, cached=inputs.cached)
    shapes = steps.abstract_state(experiment, stage, optimizer)
    counted = steps.begin_step_count(step, shapes, steps.global_batch_shapes(inputs.dummy))
    compiled = partitioner.compile(step, state, partitioner.shard_batch(inputs.dummy), donate=True)
    cost = {"step_gflop": counted.result(), **memory_cost(compiled, shapes), **running.reference.result()}
    progress.costs[str(stage.start)] = {"parameters": plan.count(stage.since), **cost}
    saved = saved_work(cost, plan, stage)
    if saved:
        print(saved)
    progress.spend("compile")
    return state, compiled


def _fit(
    running: Running,
    stage: Stage,
    state: TrainState,
    progress: Progress,
    step: Callable[..., Any],
    batches: Iterator[Batch],
) -> tuple[TrainState, Progress]:
    """Trains one stage to its end."""
    experiment, plan = running.experiment, running.experiment.plan
    train, classes, val = experiment.config.train, experiment.model.classes, experiment.splits.val

    shown, several = bool(experiment.config.log.to), experiment.several
    ranked = several and (can_keep(val, classes) or train.monitor == "map")

    def evaluate(variables: Any) -> loop.Evaluation:
        logits = None
        if ranked or (shown and pictures.wants_logits(val, classes)):
            accumulators, logits = running.evaluator.with_logits(variables, val, running.stop)
        else:
            accumulators = running.evaluator(variables, val, running.stop)
        metrics = compute_metrics(accumulators, classes, always_top5=experiment.earlier)
        if ranked and logits is not None:
            metrics["map"] = mean_average_precision(val.labels, logits)
        sigmoid = experiment.loss_name == "binary"
        found = pictures.pictures_of(accumulators, logits, val, sigmoid=sigmoid) if shown and not several else {}
        return loop.Evaluation(summary(metrics), found)

    every, epoch = train.eval_every, experiment.steps_per_epoch
    evaluation_steps = loop.eval_steps(plan.total_steps, every=every, steps_per_epoch=epoch)
    options = loop.LoopOptions(
        total_steps=plan.total_steps,
        stop_at=stage.stop,
        # Each border has a checkpoint, so that a state between two stages need never be made twice.
        eval_at=sorted({*evaluation_steps, *(stage.stop for stage in plan.stages)}),
        batch_size=train.batch_size,
        learning_rate=lambda step: float(plan.schedule(step)),
        log_every=train.log_every,
        monitor=train.monitor,
        # An earlier stage that stands still is no reason never to begin the next.
        patience=train.patience if stage is plan.stages[-1] else 0,
        best_from=plan.pruning.end if plan.pruning else 0,
        groups=stage.labels if shown else {},
    )
    return loop.fit(
        state,
        progress=progress,
        step=step,
        batches=batches,
        evaluate=evaluate,
        partitioner=experiment.partitioner,
        options=options,
        outputs=replace(running.outputs, frozen=frozen_in(experiment.variables, stage.labels)),
        stop=running.stop,
    )
