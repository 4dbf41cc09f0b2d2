"""The train command: fine-tunes, keeps the best checkpoint on val, and evaluates it once on test."""

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxtl import data, distributed, weights
from jaxtl.commands import arguments as flags
from jaxtl.commands import lr_find, recipe, setup
from jaxtl.commands import workdir as files
from jaxtl.commands.inputs import Evaluate, Inputs, into_memory, make_inputs
from jaxtl.commands.plan import Plan, make_plan
from jaxtl.commands.prefix import min_side
from jaxtl.errors import UserError
from jaxtl.evaluate.figures import figures, headline, summary
from jaxtl.parallel import Placement
from jaxtl.train import loop
from jaxtl.train.cost import Cost
from jaxtl.train.log import MetricsLog, Screen
from jaxtl.train.losses import Loss
from jaxtl.train.preemption import Preemption
from jaxtl.train.stages import Stage, carry_over, stage_of
from jaxtl.train.state import TrainState
from jaxtl.train.storage import with_narrow_frozen
from jaxtl.weights.checkpoint import Checkpoints, read_best


@dataclass(frozen=True)
class Run:
    """All that a run needs besides its state."""

    config: ConfigDict
    workdir: Path
    model: setup.Model
    splits: data.Splits
    plan: Plan
    loss: Loss
    placement: Placement
    steps_per_epoch: float


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
    files.open_workdir(workdir)
    if (workdir / "results.json").exists():
        if not files.has_checkpoints(workdir):
            raise UserError(f"--workdir={workdir} holds the results of another command: give another folder.")
        files.claim(workdir, config)
        print(f"{workdir} is finished already; its results:")
        return _report(files.read_json(workdir / "results.json"), workdir)
    prepared, variables = _prepare(config, workdir)
    step, progress, compiled, evaluate = _train(prepared, variables)
    results = _results(prepared, step, progress)
    if prepared.splits.test is not None:
        begun = time.perf_counter()
        results["best_step"], best = read_best(workdir)
        sums = evaluate(prepared.placement.put_state(best), prepared.splits.test)
        results["test"] = figures(sums, prepared.model.classes)
        progress.seconds["evaluate"] += time.perf_counter() - begun
    results["seconds"] = {"total": time.perf_counter() - started, "compile": compiled, **progress.seconds}
    files.write_json(workdir / "results.json", results)
    distributed.gather()  # Nobody reads features any more.
    if distributed.is_main():
        shutil.rmtree(workdir / "features", ignore_errors=True)  # Only this run could have used them.
    return _report(results, workdir)


def _prepare(config: ConfigDict, workdir: Path) -> tuple[Run, dict[str, Any]]:
    """Opens and checks everything; whatever the user can mend is reported here, before anything is compiled."""
    placement = setup.placement_for(config)
    setup.check_devices(config.train.batch_size, placement, "train.batch_size")
    setup.check_devices(config.eval.batch_size or config.train.batch_size, placement, "eval.batch_size")
    opened, source = setup.open_both(config)
    splits = data.choose_splits(source, train=config.data.train, val=config.data.val, test=config.data.test)
    model = setup.make_model(config, opened, source.classes)
    variables, passport = setup.variables_for(config, opened, model)
    new_head = setup.has_new_head(passport)
    steps_per_epoch = len(splits.train) / config.train.batch_size
    plan = make_plan(config, model.module, variables["params"], steps_per_epoch=steps_per_epoch, new_head=new_head)
    loss = recipe.choose_loss(config, len(model.classes), splits.train.labels)
    splits = into_memory(config, splits, min_side(config, model))

    _check_shapes(config, model, placement)
    placement.check(variables)
    files.claim(workdir, config)
    files.claim_inputs(workdir, _digests(splits, passport))
    files.write_json(workdir / "model.json", model.facts())
    if passport is not None:
        files.write_json(workdir / "weights.json", passport.to_json())
        print(passport.table())
    counts = plan.counts
    for note in (*splits.notes, *plan.notes):
        print(note)
    print(
        f"{model.name}: {counts['trainable']:,} of {counts['total']:,} parameters train in {plan.total_steps} steps, "
        f"on {len(splits.train):,} images; {len(splits.val):,} images to validate"
    )
    first = plan.stages[0]
    # Penalties are made here once, for what is wrong with their rules to be said now.
    recipe.make_step(config, model, plan, first, optimizer=plan.make_optimizer(first), loss=loss)
    narrow = recipe.narrow_paths(config, model, plan, variables)
    if narrow:
        variables = jax.device_get(variables)  # The devices are to hold them once.
        placement = with_narrow_frozen(placement, variables["params"], narrow)
    return Run(config, workdir, model, splits, plan, loss, placement, steps_per_epoch), variables


def _check_shapes(config: ConfigDict, model: setup.Model, placement: Placement) -> None:
    """Raises a UserError for sizes that would fail in a thread, or in the compiler, later on."""
    resize, parts = config.augment.resize, config.train.accumulate * placement.devices
    if config.augment.crop == "resize_crop" and 0 < resize < model.pixels.size:
        raise UserError(f"augment.resize is {resize}, but the crop is {model.pixels.size} pixels: give more, or 0.")
    if placement.axis_name and config.train.batch_size % parts:
        raise UserError(
            f"train.batch_size {config.train.batch_size} cannot be cut into train.accumulate {config.train.accumulate} "
            f"parts on each of {placement.devices} devices: give a multiple of {parts}."
        )


def _digests(splits: data.Splits, passport: weights.Passport | None) -> dict[str, str]:
    """Returns what tells data and weights from others: a run that goes on must find the same."""
    digests = {f"weights {name}": value for name, value in (passport.sha256 if passport else {}).items()}
    for name, split in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        if split is not None:
            listed = json.dumps([split.classes, split.labels.tolist(), list(split.names)])
            digests[f"data.{name}"] = hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()
    return digests


def _train(run: Run, variables: Mapping[str, Any]) -> tuple[int, loop.Progress, float, Evaluate]:
    """Trains to the end; returns the last step, the progress, the seconds of compiling, and the evaluation."""
    config, placement, plan = run.config, run.placement, run.plan

    def fresh(step: int) -> TrainState:
        stage = stage_of(plan.stages, step)
        return recipe.make_state(config, variables, stage, plan.make_optimizer(stage))

    keep = {key: config.train[key] for key in ("keep_latest", "keep_best")}
    with Preemption() as preemption, Checkpoints(run.workdir / "checkpoints", **keep) as checkpoints:
        state, progress = loop.restore(checkpoints, fresh) or (fresh(0), loop.Progress())
        done = int(state.step)
        for problem in checkpoints.problems:
            print(f"{problem}; the one before it is taken")
        if done:
            print(f"continues at step {done} of {plan.total_steps}")
        inputs = make_inputs(
            config,
            run.workdir,
            run.model,
            run.splits,
            placement,
            # What is frozen from beginning to end is as it was read.
            variables=variables,
            assignment=plan.assignment,
            labels=[stage.labels for stage in plan.stages],
            epochs=plan.total_steps / run.steps_per_epoch,
            began=files.began_cached(run.workdir),
        )
        files.write_json(run.workdir / "features.json", {"cached": inputs.cached})
        if config.train.check_learning_rate and not done:
            lr_find.warn(config, run.model, plan, run.loss, inputs, state.variables)
        state = placement.put_state(state)
        reference = recipe.begin_reference_cost(config, run.model, plan, variables)
        begun = time.perf_counter()
        evaluate = inputs.compile_evaluation(state.variables)
        compiled = time.perf_counter() - begun
        with (
            MetricsLog(run.workdir, from_step=done, evaluated=not progress.due) as log,
            Screen(plan.total_steps, start=done, batch_size=config.train.batch_size) as screen,
        ):
            batches = inputs.batches(done)
            for stage in plan.stages:
                if done > stage.stop or (done == stage.stop and not progress.due) or progress.finished:
                    continue
                state, step, seconds = _begin_stage(run, stage, inputs, state, progress, reference)
                compiled += seconds
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
                    stop=preemption.requested,
                )
                done = stage.stop
        return int(placement.get(state.step)), progress, compiled, evaluate


def _begin_stage(
    run: Run, stage: Stage, inputs: Inputs, state: TrainState, progress: loop.Progress, reference: Future[Cost]
) -> tuple[TrainState, Callable[..., Any], float]:
    """Returns the state at the stage's start, or further on in it, its compiled step, and the seconds of compiling."""
    plan, placement = run.plan, run.placement
    optimizer = plan.make_optimizer(stage)
    if len(plan.stages) > 1:
        number = plan.stages.index(stage) + 1
        print(f"stage {number} of {len(plan.stages)}: steps {stage.start + 1} to {stage.stop}, rates x {stage.rate:g}")
    if stage.start and int(placement.get(state.step)) == stage.start:
        state = placement.put_state(carry_over(placement.get(state), stage, optimizer))
        # What came before cannot count against what has not begun.
        progress.waited = 0
    begun = time.perf_counter()
    step = recipe.make_step(
        run.config,
        run.model,
        plan,
        stage,
        optimizer=optimizer,
        loss=run.loss,
        module=inputs.model,
        cached=inputs.cached,
    )
    compiled = placement.compile(step, state, placement.put_batch(inputs.blank), donate=True)
    seconds = time.perf_counter() - begun
    blank = setup.whole_batch(inputs.blank)
    cost = recipe.stage_cost(run.config, step, compiled, placement.get(state), blank, devices=placement.devices) | dict(
        reference.result()
    )
    progress.costs[str(stage.start)] = {"parameters": plan.count(stage.since), **cost}
    print(recipe.cost_line(cost, plan, stage))
    return state, compiled, seconds


def _fit(
    run: Run,
    stage: Stage,
    state: TrainState,
    progress: loop.Progress,
    step,
    batches,
    evaluate,
    *,
    checkpoints,
    log,
    screen,
    stop,
) -> tuple[TrainState, loop.Progress]:
    """Trains one stage to its end."""
    train, stages = run.config.train, run.plan.stages
    marks = loop.eval_steps(run.plan.total_steps, every=train.eval_every, steps_per_epoch=run.steps_per_epoch)
    return loop.fit(
        state,
        step=step,
        batches=batches,
        evaluate=lambda variables: summary(figures(evaluate(variables, run.splits.val, stop), run.model.classes)),
        total_steps=run.plan.total_steps,
        stop_at=stage.stop,
        # Each border has a checkpoint, so that a state between two stages need never be made twice.
        eval_at=sorted({*marks, *(stage.stop for stage in stages)}),
        batch_size=train.batch_size,
        placement=run.placement,
        checkpoints=checkpoints,
        log=log,
        screen=screen,
        progress=progress,
        learning_rate=lambda step: float(run.plan.schedule(step)),
        log_every=train.log_every,
        monitor=train.monitor,
        # An earlier stage that stands still is no reason never to begin the next.
        patience=train.patience if stage is stages[-1] else 0,
        stop=stop,
    )


def _results(run: Run, step: int, progress: loop.Progress) -> dict[str, Any]:
    return {
        "model": run.model.name,
        "weights": run.config.model.weights,
        "data": run.config.data.source,
        "classes": list(run.model.classes),
        "loss": run.config.train.loss,
        "parameters": run.plan.counts,
        "steps": step,
        "best_step": progress.best_step,
        "monitor": run.config.train.monitor,
        "seconds": {},
        "train": {
            "images_per_second": progress.images / max(progress.seconds["train"], 1e-9),
            "loss": progress.train.get("loss"),
            "skipped": progress.skipped,
        },
        "cost": _costs(run.plan, progress),
        "val": {**progress.val, "count": len(run.splits.val)},
    } | ({"ema": {"decay": run.config.train.ema_decay, **progress.both}} if progress.both else {})


def _costs(plan: Plan, progress: loop.Progress) -> dict[str, Any]:
    """Returns the cost of the last stage's step, and where there are several stages, of each."""
    stages = [progress.costs[str(stage.start)] for stage in plan.stages if str(stage.start) in progress.costs]
    return {**stages[-1], **({"stages": stages} if len(plan.stages) > 1 else {})} if stages else {}


def _report(results: dict[str, Any], workdir: Path) -> dict[str, Any]:
    for split in ("val", "test"):
        if split in results:
            print(f"{split:5}  {headline(results[split])}")
    seconds = results["seconds"]
    print(
        f"best step {results['best_step']} of {results['steps']}, by {results['monitor']} on val; "
        f"{seconds['total']:.0f} s in all; {results['train']['images_per_second']:.1f} images/s in training; "
        f"{workdir / 'results.json'}"
    )
    return results
