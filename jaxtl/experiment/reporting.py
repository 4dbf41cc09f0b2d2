"""The report of a run: its files read, its images opened, and the page written."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from markupsafe import Markup
from PIL import Image

from jaxtl import config as config_lib
from jaxtl import data
from jaxtl.data.decode import size as size_of
from jaxtl.errors import UserError, writing
from jaxtl.evaluate.predictions import read_predictions
from jaxtl.experiment import workdir as files
from jaxtl.experiment.calibration_charts import calibration_charts
from jaxtl.experiment.explaining import overlays
from jaxtl.experiment.lock import is_held
from jaxtl.experiment.mapping import map_charts, map_images, neighbours
from jaxtl.experiment.splits import open_splits, usable
from jaxtl.parallel import processes
from jaxtl.report.facts import Classified, Facts, Neighbour, classified, no_picture
from jaxtl.report.gallery import worst_mistakes
from jaxtl.report.learning_curves import Marks, learning_curves, parse_metrics
from jaxtl.report.model_card import model_card
from jaxtl.report.run_page import markdown, run_page

# Pictures are shown small; JPEGs are decoded at about this size, not at their own.
_MIN_SIDE = 160
# So many images are looked at for the sizes of all.
_SAMPLE = 200


def write_report(
    workdir: Path, splits: Mapping[str, data.Dataset] | None = None, *, extras: Collection[str] = ()
) -> Path:
    """Writes the report of a run into its folder `report`: index.html, report.md and model_card.md.

    Args:
      workdir: of a run that has begun, or of the eval command.
      splits: the data sets that its predictions are of, where they are open already; else they are opened as its
        config says, and without them the page has no pictures.
      extras: what the best checkpoint has to be run for: "map", a map of the features of images, and "explain", maps
        of the pixels that the worst mistakes rest on.

    Returns:
      The path of the page.

    Raises:
      UserError: there is no run, or the page cannot be written; for extras, there are no images or no checkpoint.
    """
    facts = read_facts(workdir, splits)
    sigmoid = facts.results.get("loss") == "binary"
    charts = {**_charts(facts), "curves": calibration_charts(workdir, facts.split, sigmoid=sigmoid)}
    if extras:
        files.refuse_ensemble(workdir, f"has no features and maps of one network: do without {', '.join(extras)}")
    if extras and not files.has_checkpoints(workdir):
        raise UserError(f"--workdir={workdir} holds no run, and this needs its best checkpoint: {', '.join(extras)}.")
    if extras and facts.several:
        raise UserError(
            f"the images of {workdir} have several labels, and these speak of one class an image: {', '.join(extras)}."
        )
    if "explain" in extras:
        facts = _with_overlays(workdir, facts)
    if "map" in extras:
        facts, charts["map"] = _with_map(workdir, facts)
    folder = workdir / "report"
    written = {"report.md": markdown(facts), "index.html": run_page(facts, charts)}
    if facts.state != "evaluation":  # What was measured may be the weights of others.
        written["model_card.md"] = model_card(facts)
    for name, text in written.items():
        with writing(folder / name):
            folder.mkdir(exist_ok=True)
            part = folder / f"{name}.tmp"
            # Names of files need not be UTF-8.
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
            part.replace(folder / name)
    return folder / "index.html"


def report_at_end(workdir: Path, splits: Mapping[str, data.Dataset | None]) -> None:
    """Writes the report of what has just been measured; what prevents it is said, and is no error.

    Args:
      workdir: of a finished run, or of the eval command.
      splits: the data sets that were measured, by name.
    """
    if not processes.is_main():
        return
    try:
        write_report(workdir, {name: split for name, split in splits.items() if split is not None})
    except UserError as error:
        print(f"note      the report was not written: {error}")
    except Exception as error:
        # The results are on the disk: a fault of the page must not end a finished run as a failed one.
        print(f"note      the report was not written, for a fault of jaxtl: {type(error).__name__}: {error}")


def _with_overlays(workdir: Path, facts: Facts) -> Facts:
    """Returns the facts with maps of the worst mistakes."""
    predictions = facts.predictions.get(facts.split)
    if predictions is None:
        return facts
    dataset = _open_run(workdir).get(facts.split)
    if not _is_of(dataset, predictions, facts.classes):
        return facts  # It says already that they have changed.
    worst = worst_mistakes(predictions)
    chosen = dataset.take(worst)
    found = overlays(workdir, chosen, predictions.predicted[worst].tolist()) if len(worst) else []
    return replace(facts, overlays=dict(zip(map(str, chosen.names), found, strict=True)))


def _with_map(workdir: Path, facts: Facts) -> tuple[Facts, list[Markup]]:
    """Returns the facts with the neighbours of the worst mistakes, and the maps."""
    splits = _open_run(workdir)
    split = facts.split or "val"
    predictions = facts.predictions.get(split)
    same = _is_of(splits[split], predictions, facts.classes)
    worst = worst_mistakes(predictions) if predictions is not None and same else np.zeros(0, int)
    mapped = map_images(workdir, {"train": splits["train"], split: splits[split]}, always={split: worst})
    near: dict[str, list[Neighbour]] = {}
    train = mapped["train"].dataset
    picture = _opener({"train": train})
    for name, indices in neighbours(mapped, split, [str(splits[split].names[i]) for i in worst]).items():
        near[name] = [
            Neighbour(str(train.names[i]), train.classes[train.labels[i]], picture("train", i)) for i in indices
        ]
    notes = [
        f"The feature map looks at {len(each.dataset):,} of {len(splits[name]):,} images of {name}"
        for name, each in mapped.items()
        if len(each.dataset) < len(splits[name])
    ]
    return replace(facts, neighbours=near, notes=[*facts.notes, *notes]), map_charts(mapped[split], split)


def read_facts(workdir: Path, splits: Mapping[str, data.Dataset] | None = None) -> Facts:
    """Returns what is known of a run; the arguments and errors are those of `write_report`."""
    if not (workdir / "config.json").exists():
        raise UserError(f"--workdir={workdir} holds no run: give the folder of one that has begun to train.")
    files.refuse_cross_validation(workdir)
    config = files.run_config(workdir)
    optional = {name: _read(workdir / f"{name}.json") for name in _OPTIONAL}
    results = optional["results"]
    trains = _is_run(workdir)
    if not trains and not results:
        raise UserError(f"--workdir={workdir} holds neither a run that has begun to train nor what eval wrote.")
    predictions = _predictions(workdir, sigmoid=results.get("loss") == "binary")
    notes = []
    if splits is None and predictions:
        try:
            splits = _open(workdir, predictions)
        except UserError as error:
            notes.append(f"There are no pictures, since the images cannot be opened: {str(error).splitlines()[0]}")
    classes = results.get("classes") or optional["model"].get("classes") or []
    matching = {name: split for name, split in (splits or {}).items() if _is_of(split, predictions.get(name), classes)}
    if splits and predictions.keys() - matching.keys():
        notes.append("There are no pictures of some images, since the data have changed since this was measured")
    defaults = config_lib.flat(config_lib.default())
    values = config_lib.flat(config)
    return Facts(
        name=workdir.resolve().name,
        workdir=str(workdir),
        state=_state(workdir, finished=bool(results)) if trains else "evaluation",
        source=config.data.source,
        changed={key: value for key, value in values.items() if value != defaults.get(key)},
        lines=_lines(workdir),
        predictions=predictions,
        picture=_opener(matching) if matching else no_picture,
        sizes=_sizes(matching),
        notes=notes,
        **optional,
    )


_OPTIONAL = ("results", "model", "weights", "groups", "data", "environment")


def _is_run(workdir: Path) -> bool:
    """Tells whether a run began there; the eval command does not note what a model is."""
    return (workdir / "model.json").exists() or (workdir / "checkpoints").exists()


def _state(workdir: Path, *, finished: bool) -> str:
    """Returns the state of a run, one of those of `Facts`."""
    return "finished" if finished else "training" if is_held(workdir) else "stopped"


def _read(path: Path) -> dict[str, Any]:
    """Returns what one of the run's files holds; nothing where it is not there yet."""
    return files.read_json(path) if path.exists() else {}


def _lines(workdir: Path) -> list[dict[str, Any]]:
    path = workdir / "metrics.jsonl"
    return parse_metrics(path.read_text(encoding="utf-8")) if path.exists() else []


def _charts(facts: Facts) -> dict[str, list[Markup]]:
    """Returns the charts that the sections of the page have beside its own."""
    if not facts.lines:
        return {}
    best, per_epoch = facts.results.get("best_step"), facts.results.get("steps_per_epoch")
    marks = Marks(
        best_steps={facts.name: best} if best else {},
        stages=[stage["stop"] for stage in facts.groups.get("stages", ())][:-1],
        steps_per_epoch={facts.name: per_epoch} if per_epoch else {},
    )
    return {"learning": learning_curves({facts.name: facts.lines}, marks)}


def _predictions(workdir: Path, *, sigmoid: bool) -> dict[str, Classified]:
    path = workdir / "predictions.npz"
    if not path.exists():
        return {}
    return {split: classified(kept, sigmoid=sigmoid) for split, kept in read_predictions(path)[1].items()}


def _open(workdir: Path, predictions: Mapping[str, Classified]) -> dict[str, data.Dataset]:
    """Opens the data of a run, or of an evaluation, and returns the sets that the predictions are of."""
    if _is_run(workdir):
        return _open_run(workdir)
    config = files.run_config(workdir)
    source = usable(config, data.open_source(config.data.source, data_dir=config.data.data_dir))
    # Of an evaluation: whichever split has these images.
    parts: list[Callable[[], data.Dataset | None]] = [partial(source.split, name) for name in source.split_names]
    location = config.model.weights
    if location.startswith("run:"):
        of_run = files.run_config(Path(location.removeprefix("run:")))
        parts += [lambda: open_splits(of_run, source).test, lambda: open_splits(of_run, source).val]
    classes = files.read_json(workdir / "results.json")["classes"]
    return _matching(parts, predictions["test"], classes)


def _open_run(workdir: Path) -> dict[str, data.Dataset]:
    """Opens the splits of a run, by name."""
    config = files.run_config(workdir)
    source = usable(config, data.open_source(config.data.source, data_dir=config.data.data_dir))
    splits = open_splits(config, source, by_class=not files.began_earlier(workdir))
    found = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {name: split for name, split in found.items() if split is not None}


def _matching(
    parts: Sequence[Callable[[], data.Dataset | None]], predictions: Classified, classes: Sequence[str]
) -> dict[str, data.Dataset]:
    for part in parts:
        try:
            dataset = part()
        except UserError:
            continue
        if _is_of(dataset, predictions, classes):
            return {"test": dataset}
    return {}


def _is_of(dataset: data.Dataset | None, found: Classified | None, classes: Sequence[str]) -> TypeGuard[data.Dataset]:
    """Tells whether a set has the images that were measured: by their names, and by their classes' too."""
    if dataset is None or found is None or list(map(str, dataset.names)) != list(found.names):
        return False
    if dataset.several or found.several:
        if dataset.several != found.several:
            return False
        none = np.zeros(len(dataset))
        columns = dict(zip(dataset.classes, dataset.labels.T, strict=True))
        same = [np.array_equal(columns.pop(name, none), found.labels[:, c]) for c, name in enumerate(classes)]
        return all(same) and not any(column.any() for column in columns.values())
    own, known = np.asarray(dataset.classes), np.asarray(classes)
    # Of plain indices the names may have come from the weights.
    if all(name.isdigit() for name in dataset.classes):
        return len(dataset.labels) == len(found.labels)
    return bool(np.array_equal(own[dataset.labels], known[found.labels]))


def _opener(splits: Mapping[str, data.Dataset]) -> Callable[[str, int], Image.Image | None]:
    def picture(split: str, index: int) -> Image.Image | None:
        dataset = splits.get(split)
        if dataset is None:
            return None
        try:
            return data.decode(dataset.read(index), dataset.where(index), min_side=_MIN_SIDE)
        except UserError:
            return None

    return picture


def _sizes(splits: Mapping[str, data.Dataset]) -> str:
    """Says how large the images are, from some of them."""
    found = []
    for dataset in splits.values():
        for index in np.linspace(0, len(dataset) - 1, min(_SAMPLE, len(dataset))).astype(int):
            try:
                found.append(size_of(dataset.read(int(index)), dataset.where(int(index))))
            except UserError:
                continue
    if not found:
        return ""
    found.sort(key=lambda size: size[0] * size[1])
    small, middle, large = (f"{found[i][0]} x {found[i][1]}" for i in (0, len(found) // 2, -1))
    if small == large:
        return f"All of {len(found)} images looked at are {small} pixels."
    return (
        f"Of {len(found)} images looked at, the smallest is {small} pixels, the largest {large}, the middle {middle}."
    )
