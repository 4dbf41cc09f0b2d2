"""What models there are: their size, the images they are made for, and whose weights they open."""

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtl import models
from jaxtl.models.base import Family
from jaxtl.pretrained.load import abstract_variables

_KEPT = Path(__file__).with_name("parameters.json")


def sources(family: Family) -> list[str]:
    """Returns the programs whose files the models of a family open, as its tables and functions say."""
    readers = {"from_config": "huggingface", "from_timm": "timm"}
    named = [mapping.name for mapping in family.KEY_MAPPINGS]
    return sorted({*named, *(source for function, source in readers.items() if hasattr(family, function))})


def parameters(name: str) -> int:
    """Returns the number of parameters of a model before its head.

    Those of the variants are kept in parameters.json: to count them all takes minutes. To write it anew:
    `python -m jaxtl.pretrained.catalog`.
    """
    return kept_parameters().get(name) or count_parameters(name)


@functools.cache
def kept_parameters() -> dict[str, int]:
    """Returns the numbers of parameters that were counted before, by the name of the variant."""
    found: dict[str, int] = json.loads(_KEPT.read_text())
    return found


def count_parameters(name: str) -> int:
    """Counts the parameters of a model before its head, from the shapes that its initialisation gives."""
    module: Any = models.build(name, num_classes=0)
    shapes = abstract_variables(module, models.native_size(name))
    return sum(math.prod(leaf.shape) for path, leaf in shapes.items() if path.startswith("params/"))


def lines() -> Iterator[str]:
    """Yields the families and their models, one a line."""
    yield "models: parameters before the head, side of the images in pixels, and where published weights lie, if known"
    for family in models.families():
        yield f"{family.__name__.rpartition('.')[2]}: opens weights of {', '.join(sources(family))}, and of jaxtl"
        published = getattr(family, "PUBLISHED", {})
        for name in family.VARIANTS:
            place = f"  {published[name]}" if name in published else ""
            yield f"  {name:<22}{parameters(name) / 1e6:8.2f} M{models.native_size(name):6}{place}"
    yield "Fields may be replaced, as in vit_s16:patch=8, and other sizes given: a ViT takes multiples of its patch."


if __name__ == "__main__":
    _KEPT.write_text(json.dumps({name: count_parameters(name) for name in models.names()}, indent=0) + "\n")
