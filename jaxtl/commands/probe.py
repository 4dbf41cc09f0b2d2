"""The probe command: how well frozen features do, before anything is trained, and at which depth they do best."""

import argparse
import functools
import itertools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxtl import data
from jaxtl.commands import flags
from jaxtl.config import to_dict
from jaxtl.data.normalize import normalize
from jaxtl.errors import UserError
from jaxtl.evaluate.plot import plot_depth
from jaxtl.evaluate.probe import Score, Split, compile_linear, probe_knn, probe_linear
from jaxtl.experiment import setup
from jaxtl.experiment import workdir as files
from jaxtl.parallel.partitioner import make_partitioner

PROBES = {"knn": probe_knn, "linear": probe_linear}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where probe.json and the plot go")
    parser.add_argument("--per-group", action="store_true", help="probe the output of every group, and draw a plot")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    run(flags.load_config(arguments, overrides), arguments.workdir, per_group=arguments.per_group)


def run(config: ConfigDict, workdir: Path, *, per_group: bool = False) -> dict[str, Any]:
    """Probes the features before the head, or of every group; returns what probe.json holds."""
    started = time.perf_counter()
    files.open_workdir(workdir)
    batch_size = config.eval.batch_size or config.train.batch_size
    setup.check_devices(batch_size, make_partitioner("jit"), "eval.batch_size")
    opened, source = setup.open_both(config)
    splits = data.choose_splits(source, train=config.data.train, val=config.data.val, test=config.data.test)
    if splits.test is None:
        raise UserError(f"{source.uri} has no test split to measure on: name one with --config.data.test.")
    # Without a head, none needs to be made.
    model = setup.make_model(config, opened, ())
    variables, _ = setup.variables_for(config, opened, model)
    for note in splits.notes:
        print(note)
    names = [name for name, _ in model.module.groups() if name != "head"]
    forward = functools.partial(_outputs, model=model, names=names, chosen=names if per_group else names[-1:])
    # The compiler works on the linear probe while the images are decoded and pass through the model.
    compiling = _begin_compiling(forward, variables, model, len(splits.train) + len(splits.val), len(source.classes))
    begun = time.perf_counter()
    readers = (config.data.workers, config.data.reader)
    parts = _features(forward, model, variables, (splits.train, splits.val, splits.test), batch_size, *readers)
    ended = time.perf_counter()
    compiling.result()
    scores = {
        group: {
            probe: measure(*parts[group], num_classes=len(source.classes), seed=config.train.seed)
            for probe, measure in PROBES.items()
        }
        for group in parts
    }
    print(_table(scores))
    results = {
        "model": model.name,
        "weights": config.model.weights,
        "data": config.data.source,
        "count": len(splits.test),
        "groups": {
            group: {probe: score.to_json() for probe, score in found.items()} for group, found in scores.items()
        },
    }
    if per_group:
        _draw(scores, workdir / "probe.png", f"{model.name} on {config.data.source.rpartition('/')[2]}")
    results["seconds"] = {"total": time.perf_counter() - started, "features": ended - begun}
    files.write_json(workdir / "config.json", to_dict(config))
    files.write_json(workdir / "probe.json", results)
    seconds = results["seconds"]
    print(f"features {seconds['features']:.1f} s, {seconds['total']:.1f} s in all; {workdir / 'probe.json'}")
    return results


def _outputs(
    variables: Mapping[str, Any], images: jax.Array, *, model: setup.Model, names: list[str], chosen: list[str]
) -> dict[str, jax.Array]:
    """Returns the pooled outputs of the chosen groups, group -> [B, D], of images uint8 [B, S, S, C]."""
    outputs = {}
    x: Any = normalize(images, model.pixels)
    start: str | None = names[0]
    for name, following in itertools.pairwise([*names, None]):
        if name in chosen:
            x = model.module.apply(variables, x, train=False, start=start, stop=name)
            # What is not pooled yet, tokens [B, N, D] or a map [B, h, w, C], is averaged over its places.
            outputs[name] = x.reshape(len(x), -1, x.shape[-1]).astype(np.float32).mean(1)
            start = following
    return outputs


def _begin_compiling(
    forward: Callable[..., Any], variables: Any, model: setup.Model, count: int, num_classes: int
) -> Future[None]:
    """Starts compiling the linear probe of `count` examples, for each width of features."""
    image = jax.ShapeDtypeStruct((1, model.pixels.size, model.pixels.size, 3), np.uint8)
    widths = sorted({leaf.shape[-1] for leaf in jax.eval_shape(forward, variables, image).values()})

    def compile_all() -> None:
        for width in widths:
            compile_linear(count, width, num_classes)

    pool = ThreadPoolExecutor(1, thread_name_prefix="jaxtl-probe")
    future = pool.submit(compile_all)
    pool.shutdown(wait=False)
    return future


def _features(
    forward: Callable[..., dict[str, jax.Array]],
    model: setup.Model,
    variables: Mapping[str, Any],
    datasets: tuple[data.Dataset, ...],
    batch_size: int,
    workers: int,
    reader: data.Reader,
) -> dict[str, tuple[Split, ...]]:
    """Passes over all images once; returns group -> a split for each data set."""
    # jit whatever the config says: each host needs all rows.
    partitioner = make_partitioner("jit")
    on_devices = partitioner.shard_state(variables)
    dummy = partitioner.shard_batch(setup.dummy_batch(model.pixels.size, batch_size))["image"]
    compiled = partitioner.compile(forward, on_devices, dummy)
    view = functools.partial(data.eval_view, pixels=model.pixels)
    splits: dict[str, list[Split]] = {}
    for dataset in datasets:
        shard = (jax.process_index(), jax.process_count())
        found = []
        batches = data.eval_batches(
            dataset, batch_size=batch_size, view=view, shard=shard, workers=workers, reader=reader
        )
        for batch in batches:
            found.append(compiled(on_devices, partitioner.shard_batch(batch)["image"]))
            if len(found) > 1:
                found[-2] = jax.device_get(found[-2])  # A batch late, so that the devices never wait for the host.
        for name in found[0]:
            rows = np.concatenate([np.asarray(outputs[name]) for outputs in found])[: len(dataset)]
            splits.setdefault(name, []).append(Split(rows, dataset.labels))
    return {name: tuple(splits[name]) for name, _ in model.module.groups() if name in splits}


def _table(scores: Mapping[str, Mapping[str, Score]]) -> str:
    width = max(len(group) for group in (*scores, "output of"))
    rows = [f"{'output of':<{width}}" + "".join(f"  {probe:^24}" for probe in PROBES)]
    for group, found in scores.items():
        cells = (
            f"{100 * score.accuracy:5.1f} % ({100 * score.interval[0]:.1f} to {100 * score.interval[1]:.1f})"
            for score in found.values()
        )
        rows.append(f"{group:<{width}}" + "".join(f"  {cell:<24}" for cell in cells))
    if len(scores) > 1:
        for probe in PROBES:
            best = max(scores, key=lambda group: scores[group][probe].accuracy)
            rows.append(f"{probe}: {best} transfers best; what comes after it gains most from training")
    return "\n".join(row.rstrip() for row in rows)


def _draw(scores: Mapping[str, Mapping[str, Score]], path: Path, title: str) -> None:
    curves = {probe: [(found[probe].accuracy, *found[probe].interval) for found in scores.values()] for probe in PROBES}
    plot_depth(path, list(scores), curves, title=title)
