"""The train command: fine-tunes, keeps the best checkpoint on val, and evaluates it once on test."""

import argparse
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl.checkpoints.manager import Checkpoints, read_best
from jaxtl.commands import flags
from jaxtl.errors import UserError
from jaxtl.evaluate.metrics import compute_metrics, summary
from jaxtl.experiment import lr_sweep, setup, steps
from jaxtl.experiment import workdir as files
from jaxtl.experiment.input_pipeline import Evaluate, Inputs, make_inputs
from jaxtl.experiment.opening import Run, open_run
from jaxtl.experiment.results import report, results_of
from jaxtl.finetune.stages import Stage, stage_of
from jaxtl.parallel import processes
from jaxtl.profiling.cost import Cost, memory_cost
from jaxtl.train import loop
from jaxtl.train.carry_over import carry_over
from jaxtl.train.log import MetricsLog, Screen
from jaxtl.train.preemption import Preemption
from jaxtl.train.progress import Progress
from jaxtl.train.state import TrainState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where the run goes; started again there, it continues where it stopped")
    flags.add_processes(parser)


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    flags.connect(arguments)
    run(flags.load_config(arguments, overrides), arguments.workdir)


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains, or goes on with, the run in `workdir`; returns what results.json holds."""
    started = time.perf_counter()
    made = files.open_workdir(workdir)
    if (workdir / "results.json").exists():
        if not files.has_checkpoints(workdir):
            raise UserError(f"--workdir={workdir} holds the results of another command: give another folder.")
        files.claim(workdir, config)
        print(f"{workdir} is finished already; its results:")
        return report(files.read_json(workdir / "results.json"), workdir)
    with Preemption() as preemption:
        try:
            prepared, variables = open_run(config, workdir)
        except UserError:
            files.discard(workdir, made)
            raise
        return report(_run(prepared, variables, started, preemption.requested), workdir)


def _run(run: Run, variables: Mapping[str, Any], started: float, stop: Callable[[], bool]) -> dict[str, Any]:
    """Trains to the end and evaluates on test; returns what results.json holds."""
    step, progress, evaluate = _train(run, variables, started, stop)
    results = results_of(run, step, progress)
    if run.splits.test is not None:
        begun = time.perf_counter()
        results["best_step"], best = read_best(run.workdir)
        accumulators = evaluate(run.partitioner.shard_state(best), run.splits.test, stop)
        results["test"] = compute_metrics(accumulators, run.model.classes)
        progress.seconds["evaluate"] += time.perf_counter() - begun
    results["seconds"] = {**progress.seconds, "total": progress.total()}
    files.write_json(run.workdir / "results.json", results)
    processes.gather()  # Nobody reads features any more.
    if processes.is_main():
        shutil.rmtree(run.workdir / "features", ignore_errors=True)  # Only this run could have used them.
    return results


def _train(
    run: Run, variables: Mapping[str, Any], started: float, stop: Callable[[], bool]
) -> tuple[int, Progress, Evaluate]:
    """Trains to the end; returns the last step, the progress, and the evaluation."""
    config, partitioner, plan = run.config, run.partitioner, run.plan
    keep = {key: config.train[key] for key in ("keep_latest", "keep_best")}
    with Checkpoints(run.workdir / "checkpoints", **keep) as checkpoints:
        state, progress = _restore(run, variables, checkpoints)
        done, progress.began = int(state.step), started
        inputs = make_inputs(
            config,
            run.workdir,
            run.model,
            run.splits,
            partitioner,
            # What is frozen from beginning to end is as it was read.
            variables=variables,
            assignment=plan.assignment,
            labels=[stage.labels for stage in plan.stages],
            epochs=plan.total_steps / run.steps_per_epoch,
            began=files.began_cached(run.workdir),
        )
        files.write_json(run.workdir / "features.json", {"cached": inputs.cached})
        if config.train.check_learning_rate and not done:
            lr_sweep.warn(config, run.model, plan, run.loss, inputs, state.variables)
        state = partitioner.shard_state(state)
        reference = steps.begin_reference_cost(config, run.model, plan, variables)
        begun = time.perf_counter()
        evaluate = inputs.compile_evaluation(state.variables)
        progress.seconds["compile"] += time.perf_counter() - begun
        with (
            MetricsLog(run.workdir, from_step=done, evaluated=not progress.due) as log,
            Screen(plan.total_steps, start=done, batch_size=config.train.batch_size) as screen,
        ):
            batches = inputs.batches(done)
            for stage in plan.stages:
                if done > stage.stop or (done == stage.stop and not progress.due) or progress.finished:
                    continue
                checkpoints.wait()  # What is copied to be written leaves its room to the next stage's program.
                state, step = _begin_stage(run, stage, inputs, variables, state, progress, reference)
                state, progress = _fit(
                    run,
                    stage,
                    state,
                    progress,
                    step,
                    batches,
                    evaluate,
                    checkpoints=checkpoints,
                    log=log,
                    screen=screen,
                    stop=stop,
                )
                done = stage.stop
        return int(partitioner.gather(state.step)), progress, evaluate


def _restore(run: Run, variables: Mapping[str, Any], checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
    """Returns where the run stopped, and says so, or its beginning."""

    def fresh(step: int) -> TrainState:
        stage = stage_of(run.plan.stages, step)
        return steps.make_state(run.config, variables, stage, run.plan.make_optimizer(stage))

    state, progress = loop.restore(checkpoints, fresh) or (fresh(0), Progress())
    for problem in checkpoints.problems:
        print(f"{problem}; the one before it is taken")
    if checkpoints.steps() == [] and (run.workdir / "metrics.jsonl").exists():
        print("stopped before its first checkpoint was whole: begins again")
    if int(state.step):
        print(f"continues at step {int(state.step)} of {run.plan.total_steps}")
    return state, progress


def _begin_stage(
    run: Run,
    stage: Stage,
    inputs: Inputs,
    variables: Mapping[str, Any],
    state: TrainState,
    progress: Progress,
    reference: Future[Cost],
) -> tuple[TrainState, Callable[..., Any]]:
    """Returns the state at the stage's start, or further on in it, and its compiled step."""
    plan, partitioner = run.plan, run.partitioner
    optimizer = plan.make_optimizer(stage)
    if len(plan.stages) > 1:
        number = plan.stages.index(stage) + 1
        print(f"stage {number} of {len(plan.stages)}: steps {stage.start + 1} to {stage.stop}, rates x {stage.rate:g}")
    if stage.start and int(partitioner.gather(state.step)) == stage.start:
        state = partitioner.shard_state(carry_over(partitioner.gather(state), stage, optimizer))
        # What came before cannot count against what has not begun.
        progress.waited = 0
    begun = time.perf_counter()
    step = steps.make_step(
        run.config,
        run.model,
        plan,
        stage,
        optimizer=optimizer,
        loss=run.loss,
        module=inputs.model,
        cached=inputs.cached,
    )
    shapes = steps.abstract_state(run.config, run.model, plan, stage, variables, optimizer)
    counted = steps.begin_step_count(step, shapes, setup.global_batch_shapes(inputs.dummy))
    compiled = partitioner.compile(step, state, partitioner.shard_batch(inputs.dummy), donate=True)
    progress.seconds["compile"] += time.perf_counter() - begun
    cost = {"step_gflop": counted.result(), **memory_cost(compiled, shapes), **reference.result()}
    progress.costs[str(stage.start)] = {"parameters": plan.count(stage.since), **cost}
    print(steps.cost_line(cost, plan, stage))
    return state, compiled


def _fit(
    run: Run,
    stage: Stage,
    state: TrainState,
    progress: Progress,
    step,
    batches,
    evaluate,
    *,
    checkpoints,
    log,
    screen,
    stop,
) -> tuple[TrainState, Progress]:
    """Trains one stage to its end."""
    train, stages = run.config.train, run.plan.stages
    evaluation_steps = loop.eval_steps(
        run.plan.total_steps, every=train.eval_every, steps_per_epoch=run.steps_per_epoch
    )
    return loop.fit(
        state,
        progress=progress,
        step=step,
        batches=batches,
        evaluate=lambda variables: summary(
            compute_metrics(evaluate(variables, run.splits.val, stop), run.model.classes)
        ),
        partitioner=run.partitioner,
        options=loop.LoopOptions(
            total_steps=run.plan.total_steps,
            stop_at=stage.stop,
            # Each border has a checkpoint, so that a state between two stages need never be made twice.
            eval_at=sorted({*evaluation_steps, *(stage.stop for stage in stages)}),
            batch_size=train.batch_size,
            learning_rate=lambda step: float(run.plan.schedule(step)),
            log_every=train.log_every,
            monitor=train.monitor,
            # An earlier stage that stands still is no reason never to begin the next.
            patience=train.patience if stage is stages[-1] else 0,
        ),
        outputs=loop.Outputs(checkpoints, log, screen),
        stop=stop,
    )
