"""The train command: fine-tunes, keeps the best checkpoint on val, and evaluates it once on test."""

import argparse
import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxtl import data
from jaxtl.commands import arguments as flags
from jaxtl.commands import setup
from jaxtl.commands import workdir as files
from jaxtl.commands.plan import Plan, make_plan
from jaxtl.data.normalize import normalize
from jaxtl.evaluate.figures import figures, headline, summary
from jaxtl.parallel import Placement, make_placement
from jaxtl.train import loop
from jaxtl.train.log import MetricsLog, Screen
from jaxtl.train.losses import softmax_cross_entropy
from jaxtl.train.state import TrainState
from jaxtl.train.step import train_step
from jaxtl.weights.checkpoint import Checkpoints, read_best


@dataclass(frozen=True)
class Run:
    """All that a run needs besides its state."""

    config: ConfigDict
    workdir: Path
    model: setup.Model
    splits: data.Splits
    plan: Plan
    optimizer: optax.GradientTransformation
    placement: Placement
    total_steps: int
    steps_per_epoch: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where the run goes; started again there, it continues where it stopped")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    run(flags.load_config(arguments, overrides), arguments.workdir)


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains, or goes on with, the run in `workdir`; returns what results.json holds."""
    started = time.perf_counter()
    files.open_workdir(workdir)
    if (workdir / "results.json").exists():
        files.claim(workdir, config)
        print(f"{workdir} is finished already; its results:")
        return _report(files.read_json(workdir / "results.json"), workdir)
    prepared, state = _prepare(config, workdir)
    step, progress, compiled, evaluate = _train(prepared, state)
    results = _results(prepared, step, progress)
    if prepared.splits.test is not None:
        begun = time.perf_counter()
        _, best = read_best(workdir)
        sums = evaluate(prepared.placement.put_state(best), prepared.splits.test)
        results["test"] = figures(sums, prepared.model.classes)
        progress.seconds["evaluate"] += time.perf_counter() - begun
    results["seconds"] = {"total": time.perf_counter() - started, "compile": compiled, **progress.seconds}
    files.write_json(workdir / "results.json", results)
    return _report(results, workdir)


def _prepare(config: ConfigDict, workdir: Path) -> tuple[Run, TrainState]:
    """Opens and checks everything; whatever the user can mend is reported here, before anything is compiled."""
    placement = make_placement(config.train.parallel)
    setup.check_devices(config.train.batch_size, placement, "train.batch_size")
    setup.check_devices(config.eval.batch_size or config.train.batch_size, placement, "eval.batch_size")
    opened, source = setup.open_both(config)
    splits = data.choose_splits(source, train=config.data.train, val=config.data.val, test=config.data.test)
    model = setup.make_model(config, opened, source.classes)
    variables, passport = setup.variables_for(config, opened, model)
    new_head = passport is None or "params/head/kernel" in passport.initialised
    steps_per_epoch = len(splits.train) / config.train.batch_size
    total_steps = config.train.steps or math.ceil(config.train.epochs * steps_per_epoch)
    plan = make_plan(config, model.module, variables["params"], total_steps=total_steps, new_head=new_head)
    splits = _into_memory(config, splits, _min_side(config, model))

    files.claim(workdir, config)
    files.write_json(workdir / "model.json", model.facts())
    if passport is not None:
        files.write_json(workdir / "weights.json", passport.to_json())
        print(passport.table())
    counts = plan.counts
    for note in (*splits.notes, *plan.notes):
        print(note)
    print(
        f"{model.name}: {counts['trainable']:,} of {counts['total']:,} parameters train in {total_steps} steps, "
        f"on {len(splits.train):,} images; {len(splits.val):,} images to validate"
    )
    optimizer = plan.make_optimizer()
    state = TrainState.create(variables, optimizer, jax.random.key(config.train.seed))
    return Run(config, workdir, model, splits, plan, optimizer, placement, total_steps, steps_per_epoch), state


def _into_memory(config: ConfigDict, splits: data.Splits, min_side: int) -> data.Splits:
    """Decodes what fits into memory, which finds broken images before the first step."""
    budget = config.data.cache_gib * 2**30
    whole = len(splits.train) + len(splits.val) + (len(splits.test) if splits.test else 0)

    def load(split: data.Dataset, min_side: int = 0) -> data.Dataset:
        share = int(budget * len(split) / whole)
        return data.preload(split, budget_bytes=share, min_side=min_side, workers=config.data.workers)

    return data.Splits(
        load(splits.train, min_side), load(splits.val), load(splits.test) if splits.test else None, splits.notes
    )


def _train(
    run: Run, state: TrainState
) -> tuple[int, loop.Progress, float, Callable[[Any, data.Dataset], dict[str, np.ndarray]]]:
    """Trains to the end; returns the last step, the progress, the seconds of compiling, and the evaluation."""
    config, placement = run.config, run.placement
    with Checkpoints(run.workdir / "checkpoints") as checkpoints:
        state, progress = loop.restore(checkpoints, state) or (state, loop.Progress())
        done = int(state.step)
        for problem in checkpoints.problems:
            print(f"{problem}; the one before it is taken")
        if done:
            print(f"continues at step {done} of {run.total_steps}")
        state = placement.put_state(state)
        begun = time.perf_counter()
        step = _compile_step(run, state)
        batch_size = config.eval.batch_size or config.train.batch_size
        evaluate = setup.compile_evaluation(run.model, state.variables, placement, batch_size)
        compiled = time.perf_counter() - begun
        with (
            MetricsLog(run.workdir, from_step=done) as log,
            Screen(run.total_steps, start=done, batch_size=config.train.batch_size) as screen,
        ):
            state, progress = loop.fit(
                state,
                step=step,
                batches=_batches(run, done),
                evaluate=lambda state: summary(figures(evaluate(state.variables, run.splits.val), run.model.classes)),
                total_steps=run.total_steps,
                eval_at=loop.eval_steps(
                    run.total_steps, every=config.train.eval_every, steps_per_epoch=run.steps_per_epoch
                ),
                batch_size=config.train.batch_size,
                placement=placement,
                checkpoints=checkpoints,
                log=log,
                screen=screen,
                progress=progress,
                learning_rate=lambda step: float(run.plan.schedule(step)),
                log_every=config.train.log_every,
                monitor=config.train.monitor,
                patience=config.train.patience,
            )
        return int(placement.get(state.step)), progress, compiled, evaluate


def _compile_step(run: Run, state: TrainState) -> Callable[..., Any]:
    config, pixels = run.config, run.model.pixels
    step = functools.partial(
        train_step,
        model=run.model.module,
        optimizer=run.optimizer,
        groups=run.plan.labels,
        loss_fn=functools.partial(softmax_cross_entropy, label_smoothing=config.train.label_smoothing),
        prepare=lambda batch, key: {**batch, "image": normalize(batch["image"], pixels)},
        clip_norm=config.optimizer.clip_norm,
        accumulate=config.train.accumulate,
    )
    blank = run.placement.put_batch(setup.blank_batch(pixels.size, config.train.batch_size))
    return run.placement.compile(step, state, blank, donate=True)


def _min_side(config: ConfigDict, model: setup.Model) -> int:
    # A large photograph is decoded down to twice the side that a random view needs: a third of the time, and nothing
    # that the view could show is lost. Evaluation always decodes in full.
    return 2 * max(model.pixels.resize, config.augment.resize)


def _batches(run: Run, done: int):
    augment = run.config.augment
    view = functools.partial(
        data.train_view,
        pixels=run.model.pixels,
        crop=augment.crop,
        scale=tuple(augment.scale),
        ratio=tuple(augment.ratio),
        resize=augment.resize,
        pad=augment.pad,
        flip=augment.flip,
        color_jitter=augment.color_jitter,
    )
    return data.train_batches(
        run.splits.train,
        batch_size=run.config.train.batch_size,
        seed=run.config.train.seed,
        view=lambda image, rng: view(image, rng=rng),
        start_step=done,
        shard=(jax.process_index(), jax.process_count()),
        workers=run.config.data.workers,
        min_side=_min_side(run.config, run.model),
    )


def _results(run: Run, step: int, progress: loop.Progress) -> dict[str, Any]:
    return {
        "model": run.model.name,
        "weights": run.config.model.weights,
        "data": run.config.data.source,
        "classes": list(run.model.classes),
        "parameters": run.plan.counts,
        "steps": step,
        "best_step": progress.best_step,
        "seconds": {},
        "train": {
            "images_per_second": progress.images / max(progress.seconds["train"], 1e-9),
            "loss": progress.train.get("loss"),
        },
        "val": {**progress.val, "count": len(run.splits.val)},
    }


def _report(results: dict[str, Any], workdir: Path) -> dict[str, Any]:
    for split in ("val", "test"):
        if split in results:
            print(f"{split:5}  {headline(results[split])}")
    seconds = results["seconds"]
    print(
        f"best step {results['best_step']} of {results['steps']}; {seconds['total']:.0f} s in all; "
        f"{results['train']['images_per_second']:.1f} images/s in training; {workdir / 'results.json'}"
    )
    return results
