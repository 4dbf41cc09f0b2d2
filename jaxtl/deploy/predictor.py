"""Classifies images: the same pixels as in training, whatever they come as, and a line for each image."""

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np

from jaxtl.data.loader import EvalView
from jaxtl.data.preloading import cores
from jaxtl.deploy.images import Item, read_view, to_items
from jaxtl.deploy.judge import Judge, LabelJudge
from jaxtl.deploy.programs import Programs
from jaxtl.errors import UserError
from jaxtl.preprocessing import Pixels

# Chunks of images that are decoded while one is computed.
_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Says what images show; `jaxtl.load` makes one. Any number of threads may use it at the same time.

    Attributes:
      name: what it is, in words, such as "vit_ti16 of runs/mine, step 405".
      judge: the logits [C] of an image -> what is said of it.
      view: an RGB image -> what of it is predicted, uint8 of one shape for all images.
      programs: views [N, ...] -> logits, compiled once for each batch size.
      features_programs: views [N, ...] -> features of the pooled backbone; of an ensemble, of one after another.
      combine: what the programs give -> logits [N, C]; None where that is what they give.
      pixels: how images are prepared; of an ensemble those of its members.
      facts: what else is known of it, as plain values: for those who ask what answers them.
    """

    name: str
    judge: Judge | LabelJudge
    view: EvalView
    programs: Programs
    features_programs: Programs
    combine: Callable[[np.ndarray], np.ndarray] | None = None
    pixels: tuple[Pixels, ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the C classes, in the order of the logits."""
        return tuple(self.judge.classes)

    @property
    def batch_size(self) -> int:
        """The number of images that are computed at once, at most."""
        return self.programs.sizes[-1]

    def __call__(self, images: Any, *, top: int = 5) -> Any:
        """Says what images show.

        Args:
          images: a file, an address, a picture of Pillow, bytes of a file, uint8 [H, W, 3] or [B, H, W, 3]; a folder,
            whose images come by name; or a list of them.
          top: how many of the likeliest classes are given, the likeliest first.

        Returns:
          For one image a dict: {"class", "probability", "top5": [{"class", "probability"}, ...]}, as the command
          `predict` writes it (see `judge.Judge`), with "file" before it where it lies in one, and "top3" for top=3.
          For a folder, a list or a batch a list of such dicts, in order; an image that cannot be read has {"error"}
          in its place, and its index or file.

        Raises:
          UserError: it is no image, or the one image cannot be read.
        """
        items, single = to_items(images)
        lines = list(self.lines(items, top=top))
        if not single:
            return [line if "file" in line else {"index": i, **line} for i, line in enumerate(lines)]
        if "error" in lines[0]:
            where = f"{lines[0]['file']}: " if "file" in lines[0] else ""
            raise UserError(f"{where}{lines[0]['error']}")
        return lines[0]

    def lines(self, items: Iterable[Item], *, top: int = 5) -> Iterator[dict[str, Any]]:
        """Yields one dict for each image, in order, while later ones are decoded.

        Yields:
          {"file" where it lies in one, and what the judge says}, or "error" where it is missing or no image.
        """
        judge = self.judge_of(top)
        for chunk, found in self._decoded(items):
            whole = [each for each in found if isinstance(each, np.ndarray)]
            logits = iter(self.logits_of_views(np.stack(whole)) if whole else ())
            for item, each in zip(chunk, found, strict=True):
                place = {"file": str(item)} if isinstance(item, (str, os.PathLike)) else {}
                yield {**place, **({"error": each} if isinstance(each, str) else judge(next(logits)))}

    def judge_of(self, top: int) -> Callable[[np.ndarray], dict[str, Any]]:
        """Returns what says of the logits [C] of an image what it shows, with so many of the likeliest classes.

        Of logits that are not finite it says that: {"error"}.

        Raises:
          UserError: there are no classes, or `top` is no number above 0.
        """
        if not self.classes:
            raise UserError(f"{self.name} has no head, and so no classes: ask for its features, or fine-tune it first.")
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise UserError(f"top is {top!r}, but it must be a whole number above 0.")
        return partial(_judged, judge=dataclasses.replace(self.judge, top=top))

    def logits(self, images: Any) -> np.ndarray:
        """Returns the logits of images, float32 [N, C], or [C] of a single one.

        Raises:
          UserError: an image cannot be read; it names it.
        """
        self.judge_of(1)
        return self._of_all(images, self.logits_of_views)

    def features(self, images: Any) -> np.ndarray:
        """Returns what the head sees of images: the features of the pooled backbone, float32 [N, D], or [D].

        Those of an ensemble are those of its members, one after another.

        Raises:
          UserError: an image cannot be read; it names it.
        """
        return self._of_all(images, self.features_programs)

    def logits_of_views(self, views: np.ndarray) -> np.ndarray:
        """Returns the logits float32 [N, C] of what `view` made of N images."""
        found = self.programs(views)
        return found if self.combine is None else self.combine(found)

    def warm_up(self) -> None:
        """Compiles the programs of all batch sizes, so that no image has to wait for one."""
        for size in self.programs.sizes:
            self.logits_of_views(np.stack([self.blank] * size))

    @cached_property
    def blank(self) -> np.ndarray:
        """The view of an image without anything on it, to try the programs by."""
        from PIL import Image

        return self.view(Image.new("RGB", (64, 64)))

    def _of_all(self, images: Any, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        items, single = to_items(images)
        found = []
        for chunk, views in self._decoded(items):
            for item, view in zip(chunk, views, strict=True):
                if isinstance(view, str):
                    where = f"{item}: " if isinstance(item, (str, os.PathLike)) else ""
                    raise UserError(f"{where}{view}")
            found.append(compute(np.stack(views)))
        if not found:
            raise UserError("there are no images: give at least one.")
        rows = np.concatenate(found)
        return rows[0] if single else rows

    def _decoded(self, items: Iterable[Item]) -> Iterator[tuple[Sequence[Item], list[np.ndarray | str]]]:
        """Yields chunks of images and their views, or why there are none; the next ones are decoded meanwhile."""
        waiting: deque[tuple[list[Item], list[Future[np.ndarray | str]]]] = deque()
        iterator = iter(items)

        def begin() -> None:
            if chunk := list(islice(iterator, self.batch_size)):
                waiting.append((chunk, [self.readers.submit(read_view, item, self.view) for item in chunk]))

        for _ in range(_AHEAD):
            begin()
        while waiting:
            chunk, futures = waiting.popleft()
            found = [future.result() for future in futures]
            begin()
            yield chunk, found

    @cached_property
    def readers(self) -> ThreadPoolExecutor:
        """The threads that decode, one a core."""
        return ThreadPoolExecutor(cores(), thread_name_prefix="jaxtl-decode")


def _judged(logits: np.ndarray, judge: Judge | LabelJudge) -> dict[str, Any]:
    if not np.isfinite(logits).all():
        return {"error": "its logits are not finite: the weights are damaged, or too large for the precision"}
    return judge(logits)
