"""The predictions of several models on the same images: images found by their names, and classes too."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxtl.errors import UserError
from jaxtl.evaluate.bootstrap import Judged

_SHOWN = 5


@dataclass(frozen=True)
class NamedPredictions:
    """What a model said of a split.

    Attributes:
      classes: the names of the classes.
      names: of the images [N].
      judged: what it said of each, in the same order.
    """

    classes: Sequence[str]
    names: Sequence[str]
    judged: Judged


@dataclass(frozen=True)
class Aligned:
    """What several models said of the same images.

    Attributes:
      classes: the names of the classes, in the order of the first model.
      names: of the images that all have, sorted [N].
      judged: model -> what it said of each of them.
      left_out: model -> how many more images it has.
    """

    classes: Sequence[str]
    names: Sequence[str]
    judged: Mapping[str, Judged]
    left_out: Mapping[str, int]


def align(models: Mapping[str, NamedPredictions], *, shared: bool = False) -> Aligned:
    """Returns the predictions of models in one order of images and of classes.

    A name that several images of a split have stands for them in their order.

    Args:
      models: name -> its predictions; at least one.
      shared: whether to keep those images alone that all have, where they do not have the same ones.

    Raises:
      UserError: the classes differ, or the images, or the label of an image.
    """
    first, *others = models
    order = models[first].classes
    for other in others:
        _check_classes(first, order, other, models[other].classes)
    places = {model: _places(each.names) for model, each in models.items()}
    common = set(places[first]).intersection(*(places[other] for other in others))
    left_out = {model: len(place) - len(common) for model, place in places.items()}
    if not common or (any(left_out.values()) and not shared):
        raise UserError(_different_images(places, len(common)), arguments=["shared"] if common else [])
    keys = sorted(common)
    judged = {
        model: _in_order(each, order, np.array([places[model][key] for key in keys])) for model, each in models.items()
    }
    for other in others:
        differ = np.flatnonzero(judged[first].labels != judged[other].labels)
        if len(differ):
            name, (a, b) = keys[differ[0]][0], (order[judged[model].labels[differ[0]]] for model in (first, other))
            raise UserError(
                f"{first} and {other} have other labels for {len(differ):,} of {len(keys):,} images: {name} is {a!r} "
                f"in {first} and {b!r} in {other}. Compare runs on the same labels."
            )
    return Aligned(order, [name for name, _ in keys], judged, left_out)


def _places(names: Sequence[str]) -> dict[tuple[str, int], int]:
    """Returns where each image is: (its name, the number of images before it of that name) -> its index."""
    seen: Counter[str] = Counter()
    places = {}
    for index, name in enumerate(names):
        places[str(name), seen[name]] = index
        seen[name] += 1
    return places


def _in_order(model: NamedPredictions, classes: Sequence[str], index: np.ndarray) -> Judged:
    judged = model.judged.take(index)
    if list(model.classes) == list(classes):
        return judged
    # Labels and predictions move, not logits: of equal ones, rounded to float16, the first was not always the highest.
    places = {name: index for index, name in enumerate(classes)}
    place = np.array([places[name] for name in model.classes])
    return replace(judged, labels=place[judged.labels], predicted=place[judged.predicted])


def _check_classes(first: str, classes: Sequence[str], other: str, others: Sequence[str]) -> None:
    if list(classes) == list(others):
        return
    only = [sorted(set(a) - set(b)) for a, b in ((classes, others), (others, classes))]
    if any(only):
        parts = [f"only {name} has {_some(names)}" for name, names in zip((first, other), only, strict=True) if names]
        raise UserError(
            f"{first} and {other} have other classes, {len(classes)} and {len(others)}: {'; '.join(parts)}. Compare "
            "runs on the same classes."
        )
    if len(set(classes)) < len(classes) or len(set(others)) < len(others):
        raise UserError(
            f"{first} and {other} have classes in another order, and several of one name, so nobody can tell which is "
            "which: give each a name of its own."
        )


def _different_images(places: Mapping[str, Mapping[tuple[str, int], int]], common: int) -> str:
    """Returns what is wrong where images are not the same, with an example for each model that has more."""
    counts = ", ".join(f"{model} {len(place):,}" for model, place in places.items())
    shared = set.intersection(*(set(place) for place in places.values()))
    extra = {model: next((key[0] for key in place if key not in shared), None) for model, place in places.items()}
    examples = "; ".join(f"{name} in {model} is not in all" for model, name in extra.items() if name is not None)
    advice = "with shared those alone are compared" if common else "compare runs on the same images"
    return f"the runs have different images: {counts}, of which {common:,} are shared ({examples}); {advice}."


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
