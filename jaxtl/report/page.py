"""From values to one HTML file: templates filled in, pictures put in as data."""

import base64
import io
import re
import shlex
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, values: Mapping[str, Any]) -> str:
    """Returns a page.

    What is put into an HTML template is escaped, unless it is marked as HTML (`markupsafe.Markup`).

    Args:
      template: a file of `jaxtl/report/templates`, as "run.html"; those of pages extend "base.html".
      values: what it names. A name that is missing is an error.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> "Environment":
    # Here, for what only a command with a page should pay.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxtl.report", "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "percent": percent,
        "number": number,
        "md": escape_markdown,
        "public": public_location,
        "shell": shlex.quote,
    }
    environment.filters.update(filters)
    return environment


def is_page(path: Path) -> bool:
    """Tells whether a file is a page that was written here, so that another may take its place."""
    try:
        return '<meta name="generator" content="jaxtl">' in path.read_text(encoding="utf-8", errors="replace")[:1000]
    except OSError:
        return False


def percent(share: float | None, digits: int = 1) -> str:
    """Returns a share in percent; a dash where it is undefined.

    >>> percent(0.875), percent(None)
    ('87.5 %', '–')
    """
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 4) -> str:
    """Returns a number in so many significant digits, or a whole number in all of its own; a dash for None.

    >>> number(0.123456), number(12345), number(None)
    ('0.1235', '12,345', '–')
    """
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


def escape_markdown(text: str) -> str:
    r"""Returns a text as Markdown shows it literally.

    >>> print(escape_markdown("a|b_c <i>"))
    a\|b\_c &lt;i>
    """
    return re.sub(r"([\\`*_\[\]#|~])", r"\\\1", text).replace("<", "&lt;")


def public_location(location: str) -> str:
    """Returns where something comes from as others may read it: of a file or a folder here the name alone.

    >>> public_location("hf:org/name"), public_location("/home/me/a.safetensors"), public_location("folder:/data/pets")
    ('hf:org/name', 'a.safetensors', 'folder:pets')
    >>> public_location("https://me:secret@there.org/a.npz?signature=12")
    'https://there.org/a.npz'
    """
    kind, colon, place = location.rpartition(":")
    if location.startswith(("http:", "https:")):
        # What a name, a password or a signature in it opens is for nobody else.
        parts = urlsplit(location)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    if kind.split(":")[0] in ("hf", "gs", "tfds"):
        return location
    return f"{kind}{colon}{PurePath(place).name or place}"


def image_uri(image: Image.Image | np.ndarray, *, side: int | None = None, quality: int = 80) -> str:
    """Returns an image as the address of itself, a JPEG.

    Args:
      image: of Pillow, or uint8 [H, W, 3].
      side: its longer side in pixels, if it is to be reduced to it.
      quality: of the JPEG, to 95.
    """
    image = (Image.fromarray(image) if isinstance(image, np.ndarray) else image).convert("RGB")
    if side is not None:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
