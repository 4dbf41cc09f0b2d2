"""Maps of what the best checkpoint of a run looks at: a picture for each image, and a page with all of them."""

import difflib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxtl import data
from jaxtl.data import decode, eval_view
from jaxtl.data.formats import describe_others
from jaxtl.data.normalize import normalize
from jaxtl.deploy.images import Place, find_images, read_view
from jaxtl.errors import UserError, writing
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build_run
from jaxtl.experiment.model import Model
from jaxtl.explain.methods import AUTO, METHODS, choose_method, explain_images
from jaxtl.explain.overlay import overlay
from jaxtl.report.page import image_uri, is_page, render
from jaxtl.train.losses import to_probabilities

# A page with more photographs is too large to open.
_SHOWN = 200
_BATCH = 8
_WORKERS = 4


@dataclass(frozen=True)
class Request:
    """What to explain, and how.

    Attributes:
      method: one of `jaxtl.explain.methods.METHODS`, or "auto".
      group: whose maps Grad-CAM looks at; "" for the last.
      class_name: the class to explain; "" for the predicted one of each image.
    """

    method: str = AUTO
    group: str = ""
    class_name: str = ""


@dataclass(frozen=True)
class Explained:
    """An image with its map.

    Attributes:
      place: where it lies.
      predicted: the class that the run predicts, and its probability.
      explained: the class whose map it is, and its probability.
      view: uint8 [S, S, 3], what the model sees.
      overlay: uint8 [S, S, 3], the map over it.
    """

    place: Place
    predicted: tuple[str, float]
    explained: tuple[str, float]
    view: np.ndarray
    overlay: np.ndarray


def explain_run(workdir: Path, places: Sequence[Place], output: Path, request: Request) -> list[str]:
    """Writes NAME_METHOD.png for each image, and index.html; prints a line for each.

    Args:
      workdir: of the run.
      places: images, folders of images, or addresses of images.
      output: the folder to write to.
      request: what to explain.

    Returns:
      Why images could not be read, a line for each of them.

    Raises:
      UserError: there is no run or it has no checkpoint, there is no image, or the request does not fit the model.
    """
    model, variables, _ = build_run(workdir)
    method = choose_method(model.module, request.method)
    target = _index(model, request.class_name, method)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: give a folder to write to.")
    page = output / "index.html"
    if page.exists() and not is_page(page):
        raise UserError(f"{page} was not written by explain: give another folder.")
    images = _find(places)
    read = _explain(model, variables, images, files.run_config(workdir).train.loss, target, request)
    cards: list[dict[str, Any]] = []
    failed = []
    names: set[str] = set()
    for result in read:
        if isinstance(result, str):
            failed.append(result)
            continue
        path = output / f"{_free_name(result.place, names)}_{method}.png"
        with writing(path):
            output.mkdir(parents=True, exist_ok=True)
            Image.fromarray(result.overlay).save(path)
        print(f"{result.place}: {_in_words(result)}, {path}", flush=True)
        if len(cards) < _SHOWN:
            cards.append(_card(result))
    if cards:
        _write_page(output / "index.html", cards, len(names), workdir, method, request)
    return failed


def overlays(workdir: Path, dataset: data.Dataset, classes: Sequence[int]) -> list[np.ndarray]:
    """Returns what speaks for a class in each image of a set, over the image: uint8 [S, S, 3].

    Args:
      workdir: of the run whose best checkpoint is explained, by the method that suits it.
      dataset: the images.
      classes: the index of a class for each.

    Raises:
      UserError: the run has no checkpoint, or an image cannot be read.
    """
    model, variables, _ = build_run(workdir)
    variables = jax.device_put(variables)
    found: list[np.ndarray] = []
    size = min(_BATCH, len(dataset))
    for first in range(0, len(dataset), size):
        chosen = range(first, min(first + size, len(dataset)))
        views = [eval_view(decode(dataset.read(i), dataset.where(i)), model.pixels) for i in chosen]
        # Filled up, so that one program serves all batches.
        more = size - len(views)
        batch = np.stack([*views, *views[-1:] * more])
        of_batch = np.array([*(classes[i] for i in chosen), *[classes[chosen[-1]]] * more])
        maps = explain_images(model.module, variables, normalize(jnp.asarray(batch), model.pixels), of_batch)
        found += list(overlay(batch, np.asarray(maps)))[: len(views)]
    return found


def _index(model: Model, class_name: str, method: str) -> int | None:
    """Returns the index of the class to explain; None for the predicted one."""
    if not class_name:
        return None
    if not METHODS[method].follows_class:
        raise UserError(f"method {method!r} gives the same map for every class: leave the class out.")
    if class_name in model.classes:
        return model.classes.index(class_name)
    near = difflib.get_close_matches(class_name, model.classes, n=3, cutoff=0.5)
    known = ", ".join(model.classes) if len(model.classes) <= 20 else f"{len(model.classes)} others"
    meant = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it knows {known}."
    raise UserError(f"the run knows no class {class_name!r}; {meant}")


def _find(places: Sequence[Place]) -> tuple[Place, ...]:
    found = find_images(places)
    if not found.images:
        others = describe_others([str(path) for path in found.others]) if found.others else ""
        more = f"\nnot taken, since no images: {others}" if others else ""
        raise UserError(f"there is no image file in {', '.join(map(str, places))}.{more}")
    return found.images


def _explain(
    model: Model,
    variables: dict[str, Any],
    images: Sequence[Place],
    loss: str,
    target: int | None,
    request: Request,
) -> Iterator[Explained | str]:
    """Yields each image with its map, or why it cannot be read, in order."""

    @jax.jit
    def predict(variables: dict[str, Any], batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        normalized = normalize(batch, model.pixels)
        logits = jnp.asarray(model.module.apply(variables, normalized))
        return normalized, to_probabilities(logits, loss)

    variables = jax.device_put(variables)
    explain = partial(explain_images, model.module, variables, method=request.method, group=request.group)
    size = min(_BATCH, len(images))
    with ThreadPoolExecutor(_WORKERS) as executor:
        for first in range(0, len(images), size):
            chunk = images[first : first + size]
            views = list(executor.map(read_view, chunk, repeat(partial(eval_view, pixels=model.pixels))))
            good = [view for view in views if isinstance(view, np.ndarray)]
            if good:
                # Filled up, so that one program serves all batches.
                batch = np.stack([*good, *[good[-1]] * (size - len(good))])
                normalized, probabilities = (np.asarray(x) for x in predict(variables, batch))
                best = probabilities.argmax(axis=1)
                classes = best if target is None else np.full(size, target)
                pictures = iter(overlay(batch, np.asarray(explain(normalized, classes))))
                facts = iter(zip(best, classes, probabilities, strict=True))
            for place, view in zip(chunk, views, strict=True):
                if isinstance(view, str):
                    yield f"{place}: {view}"
                    continue
                predicted, explained, row = next(facts)
                pairs = [(model.classes[index], float(row[index])) for index in (predicted, explained)]
                yield Explained(place, pairs[0], pairs[1], view, next(pictures))


def _free_name(place: Place, names: set[str]) -> str:
    """Returns a name for the picture of an image, and adds it to those that are taken."""
    stem = Path(str(place).rpartition("/")[2]).stem or "image"
    name, number = stem, 1
    while name in names:
        number += 1
        name = f"{stem}-{number}"
    names.add(name)
    return name


def _in_words(result: Explained) -> str:
    text = _of(result.predicted)
    return text if result.explained == result.predicted else f"{text}, explained {_of(result.explained)}"


def _of(pair: tuple[str, float]) -> str:
    return f"{pair[0]} {100 * pair[1]:.1f} %"


def _card(result: Explained) -> dict[str, Any]:
    return {
        "name": str(result.place),
        "predicted": result.predicted,
        "explained": result.explained,
        "view": image_uri(result.view),
        "overlay": image_uri(result.overlay),
    }


def _write_page(
    path: Path, cards: Sequence[dict[str, Any]], count: int, workdir: Path, method: str, request: Request
) -> None:
    values = {
        "workdir": str(workdir),
        "method": METHODS[method].title,
        "follows_class": METHODS[method].follows_class,
        "group": request.group,
        "class_name": request.class_name,
        "cards": cards,
        "count": count,
    }
    with writing(path):
        path.write_text(render("explain.html", values), encoding="utf-8", errors="backslashreplace")
    print(path, flush=True)
