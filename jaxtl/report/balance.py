"""How many images the classes have."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from jaxtl.report.figure import new_figure, style, to_svg

# Up to so many classes the bars have names.
_NAMED = 30


def balance_chart(data: Mapping[str, Any]) -> Markup:
    """Returns bars of the images of each class, those with most first, one on another by split.

    Args:
      data: as data.json holds it.
    """
    splits = data["splits"]
    names = list(dict.fromkeys(name for split in splits.values() for name in split["per_class"]))
    counts = {key: np.array([split["per_class"].get(name, 0) for name in names]) for key, split in splits.items()}
    total = np.sum(list(counts.values()), axis=0)
    order = np.argsort(-total, kind="stable")
    with style():
        figure, axes = new_figure(8, 3)
        below = np.zeros(len(names), int)
        for key, values in counts.items():
            if len(names) <= _NAMED:
                axes.bar(range(len(names)), values[order], bottom=below[order], label=key, width=0.8)
            else:  # A bar for each of thousands of classes takes minutes.
                axes.stairs((below + values)[order], baseline=below[order], fill=True, label=key)
            below = below + values
        axes.set(ylabel="images")
        axes.grid(False, axis="x")
        named = len(names) <= _NAMED
        shown = [names[int(i)][:20] for i in order] if named else []
        axes.set_xticks(range(len(shown)), shown, rotation=60, ha="right")
        if not named:
            axes.set_xlabel(f"{len(names)} classes, by their number of images")
        figure.legend(loc="outside right upper", fontsize=8)  # Beside the bars, of which one may be as high as any.
        return to_svg(figure, f"Images of {len(names)} classes: from {total.min():,} to {total.max():,} of a class.")
