"""A map of features: each image a point, coloured by its class, with its name under the pointer."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from markupsafe import Markup

from jaxtl.report.figure import legend_label, new_figure, style, to_svg

# Up to so many classes each has a colour and a shape that no other has.
_NAMED = 20
_SHAPES = "os^"
_POINTS = "feature-map-points"


def map_chart(
    places: np.ndarray, labels: np.ndarray, names: Sequence[str], classes: Sequence[str], title: str
) -> Markup:
    """Returns the map; pointing at an image shows its name and class.

    Args:
      places: in the plane [N, 2].
      labels: class indices [N].
      names: of the images.
      classes: names of the classes.
      title: what made the places of the features.
    """
    with style():
        import matplotlib as mpl

        figure, axes = new_figure(6.5, 6)
        few = len(classes) <= _NAMED
        colors = mpl.colormaps["tab10" if few else "turbo"]
        order = []
        for index in np.unique(labels):
            chosen = np.flatnonzero(labels == index)
            order.append(chosen)
            color = colors(int(index) % 10) if few else colors(index / max(len(classes) - 1, 1))
            shape = _SHAPES[int(index) // 10 % len(_SHAPES)] if few else "o"
            x, y = places[chosen].T
            label = legend_label(classes[index]) if few else None
            points = axes.scatter(x, y, s=14, color=color, marker=shape, linewidths=0, label=label)
            points.set_gid(f"{_POINTS}-{index}")
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(False)
        if few:
            figure.legend(loc="outside lower center", ncols=4, fontsize=8)
        svg = to_svg(figure, f"{title} of {len(labels):,} images of {len(classes)} classes.")
    titles = iter(f"{names[i]}: {classes[labels[i]]}" for i in np.concatenate(order))
    return Markup(_named(str(svg), titles))


def _named(svg: str, titles: Iterator[str]) -> str:
    """Puts the titles into the points, which stand in the order in which they were drawn."""

    def with_titles(group: re.Match[str]) -> str:
        def with_title(use: re.Match[str]) -> str:
            return f"<use {use[1]}><title>{Markup.escape(next(titles))}</title></use>"

        return re.sub(r"<use ([^>]*?)/>", with_title, group[0])

    return re.sub(rf'<g id="{_POINTS}-.*?</g>\s*</g>', with_titles, svg, flags=re.S)
