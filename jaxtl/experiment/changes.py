"""What has changed since a run: its data and weights are told apart by their digests, its model by its facts."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl import data, models
from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.model import open_weights
from jaxtl.experiment.splits import open_splits, usable

_LOCAL = ("folder:", "csv:", "jsonl:", "npz:")


def digests(splits: data.Splits, weights: Mapping[str, str]) -> dict[str, str]:
    """Returns what tells data and weights from others: a run that goes on must find the same.

    Args:
      splits: of the data: their classes, labels, names and weights count.
      weights: file -> its SHA-256.
    """
    found = {f"weights {name}": value for name, value in weights.items()}
    for name, split in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        if split is not None:
            what = [split.classes, split.labels.tolist(), list(split.names)]
            if split.weights is not None:
                what.append(split.weights.tolist())
            listed = json.dumps(what)
            found[f"data.{name}"] = hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()
    return found


def changed_since(config: ConfigDict, workdir: Path) -> list[str]:
    """Returns what is no longer as the finished run in `workdir` found it, one line each; nothing is downloaded."""
    path = workdir / "inputs.json"
    if not path.exists():  # Runs from before this was kept.
        return []
    before = files.read_json(path)
    checks: list[tuple[str, Callable[[], dict[str, str]]]] = []
    if config.data.source.startswith(_LOCAL):
        by_class = not files.began_earlier(workdir)
        checks.append(("data.", lambda: digests(_splits(config, by_class), {})))
    if Path(config.model.weights).exists():
        checks.append(("weights ", lambda: _weights(config)))
    lines = []
    for prefix, look in checks:
        try:
            now = look()
        except UserError as error:
            lines.append(f"{'the data' if prefix == 'data.' else 'the weights'} cannot be opened any more: {error}")
            continue
        known = {key: value for key, value in before.items() if key.startswith(prefix)}
        lines += [f"{files.in_words(key)} changed" for key in {**known, **now} if known.get(key) != now.get(key)]
    return lines


def changed_facts(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what the facts of a model have become since model.json was written, as "pixels.resize: 256 -> 224".

    Facts that the older file lacks are no change: they were added since.

    >>> changed_facts({"epsilon": 1e-6, "num_classes": 3}, {"epsilon": 1e-5, "num_classes": 3})
    ['epsilon: 1e-06 -> 1e-05']
    """
    names = (before.get("model"), now.get("model"))
    try:
        old, new = (_flat(facts, models.complete_fields(facts["model"])) for facts in (before, now))
    except (KeyError, UserError):  # A name that says nothing here is compared as it stands.
        old, new = ({**_flat(facts, {}), "model": name} for facts, name in zip((before, now), names, strict=True))
    return [f"{key}: {value!r} -> {new.get(key)!r}" for key, value in old.items() if value != new.get(key)]


def _flat(facts: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what to compare, by key. Fields stand for the name, which may leave some to the family and some not."""
    given = {key: value for key, value in facts.items() if key not in ("model", "classes", "pixels", "epsilon")}
    pixels = {f"pixels.{key}": value for key, value in (facts.get("pixels") or {}).items()}
    # Classes are those of the data, which have their digest; an epsilon of None is that of the name.
    epsilon = fields.get("epsilon") if facts.get("epsilon") is None else facts["epsilon"]
    named = {f"model:{key}": value for key, value in fields.items() if key != "epsilon"}
    return {**named, **given, "epsilon": epsilon, **pixels}


def _splits(config: ConfigDict, by_class: bool) -> data.Splits:
    source = data.open_source(config.data.source, data_dir=config.data.data_dir)
    return open_splits(config, usable(config, source), by_class=by_class)


def _weights(config: ConfigDict) -> dict[str, str]:
    opened = open_weights(config)
    return {} if opened is None else {f"weights {name}": value for name, value in opened.sha256.items()}
