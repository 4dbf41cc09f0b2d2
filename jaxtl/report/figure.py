"""Charts by matplotlib: for a page SVG, whose ink is that of the text around it, light or dark; elsewhere pixels."""

import hashlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

# A colour that nothing else has; in the file it becomes the colour of the text.
INK = "#010203"
# Okabe and Ito's, which people who confuse red and green tell apart; the first two are darker than theirs, and all have
# a contrast of 3 to 1 on white and on black.
COLORS = ("#0077bb", "#cc5500", "#009e73", "#cc79a7", "#997700", "#7a7af0")
_importing = threading.Lock()


def import_matplotlib() -> None:
    """Imports what draws, in one thread at a time.

    Imports of two parts in two threads can wait for each other; Python then gives one of them half a module.
    """
    with _importing:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401


@contextmanager
def style() -> Iterator[None]:
    """Within, matplotlib draws as pages want it: no background, text as text, and equal figures as equal bytes."""
    import_matplotlib()
    import matplotlib as mpl
    from cycler import cycler

    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    settings: Any = {
        **dict.fromkeys(ink, INK),
        "axes.prop_cycle": cycler(color=COLORS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "grid.color": INK,
        "font.family": "sans-serif",
        "font.size": 10,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "text.parse_math": False,  # A class may be called $5.
        "svg.fonttype": "none",
        "svg.hashsalt": "jaxtl",
    }
    with mpl.rc_context(settings):
        yield


def new_figure(width: float = 6.0, height: float = 3.5) -> tuple["Figure", "Axes"]:
    """Returns an empty figure, of so many inches, and its axes; made and drawn within `style`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def to_svg(figure: "Figure", alt: str) -> Markup:
    """Returns a figure as an SVG element that is as wide as its column.

    Args:
      figure: made within `style`.
      alt: what it shows, in words, for those who cannot see it.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = re.sub(r'style="[^"]*"', _as_around, svg[svg.index("<svg") :])
    svg = _with_own_ids(svg)
    label = Markup.escape(alt)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" class="chart" ', 1))


def with_log_scale(axis: "XAxis | YAxis") -> None:
    """Makes an axis, within `style`, logarithmic, with plain numbers.

    Matplotlib's own are TeX, which stands there as it is where math is not parsed.

    >>> figure, axes = new_figure()
    >>> with_log_scale(axes.yaxis)
    >>> axes.yaxis.get_major_formatter()(0.01)
    '0.01'
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend_label(name: str) -> str:
    """Returns a name as the label of a curve: one that begins with an underscore would be missing in the legend."""
    return f"\u200b{name}"


def _as_around(style: re.Match[str]) -> str:
    """Returns a style with the colour and the font of the text around the chart."""
    return re.sub(r"font-family: [^;\"]*;? ?", "", style[0].replace(INK, "currentColor"))


def _with_own_ids(svg: str) -> str:
    """Returns a chart whose ids no other on the page has: matplotlib counts anew in each."""
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # Nothing refers to those that only count.
    mark = hashlib.blake2b(svg.encode(), digest_size=4).hexdigest()
    named = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    return re.sub(r'(id="|url\(#|href="#)([^)"]+)', lambda m: f"{m[1]}{mark}-{m[2]}" if m[2] in named else m[0], svg)


def to_pixels(figure: "Figure", *, dots_per_inch: int = 100) -> np.ndarray:
    """Returns a figure on white, uint8 [H, W, 3].

    Args:
      figure: made within `style`.
      dots_per_inch: pixels for each of its inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dots_per_inch)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # Of a letter that no font here has, an empty box says as much.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
