"""npz:FILE holds decoded images as Keras ships them: x_train, y_train, x_test, y_test."""

import zipfile
from pathlib import Path

import numpy as np

from jaxtl.data.dataset import Dataset
from jaxtl.data.sources.table import MAX_CLASSES
from jaxtl.data.splits import NAMES, SYNONYMS, canonical
from jaxtl.errors import UserError

_SPLITS = (*NAMES, *SYNONYMS)


def read_npz(path: str) -> dict[str, Dataset]:
    """Reads the arrays of an .npz file into memory.

    For each split: x_<split> uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3], and y_<split> integers [N] or [N, 1]; the
    splits are train, val and test. Class names come from `label_names`, where it is there. An example's name is its
    split and its index.

    Raises:
      UserError: missing or misshapen arrays, all at once.
    """
    file = Path(path).expanduser()
    arrays = _load(file)
    suffixes = [suffix for suffix in _SPLITS if f"x_{suffix}" in arrays or f"y_{suffix}" in arrays]
    if not suffixes:
        raise UserError(
            f"{file} holds {', '.join(arrays) or 'nothing'}; expected x_train, y_train, x_test, y_test",
            arguments=["source"],
        )
    problems = [problem for suffix in suffixes for problem in _check(arrays, suffix)]
    if problems:
        raise UserError("\n".join(f"{file}: {problem}" for problem in problems), arguments=["source"])
    count = 1 + max(int(arrays[f"y_{suffix}"].max()) for suffix in suffixes)
    classes = tuple(str(name) for name in arrays.get("label_names", range(count)))
    if len(classes) < count:
        raise UserError(
            f"{file}: label_names has {len(classes)} names but the labels reach {count - 1}", arguments=["source"]
        )
    return {canonical(suffix): _dataset(arrays, suffix, classes) for suffix in suffixes}


def _load(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise UserError(
            f"{file} does not exist; an npz source holds x_train, y_train, x_test, y_test", arguments=["source"]
        )
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file} cannot be read as an npz file of plain arrays: {error}", arguments=["source"]
        ) from error


def _check(arrays: dict[str, np.ndarray], suffix: str) -> list[str]:
    x_name, y_name = f"x_{suffix}", f"y_{suffix}"
    missing = [name for name in (x_name, y_name) if name not in arrays]
    if missing:
        return [f"{x_name} and {y_name} belong together, but {missing[0]} is missing"]
    x, y = arrays[x_name], arrays[y_name]
    problems = []
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)):
        problems.append(f"{x_name} is {x.dtype} {list(x.shape)}; expected uint8 [N, H, W, 3], or grey [N, H, W]")
    if y.dtype.kind not in "iu" or y.shape not in ((y.size,), (y.size, 1)):
        problems.append(f"{y_name} is {y.dtype} {list(y.shape)}; expected integers [N], each a class index")
    elif x.ndim and len(x) != len(y):
        problems.append(f"{x_name} holds {len(x)} images and {y_name} {len(y)} labels")
    elif not y.size:
        problems.append(f"{x_name} holds no images")
    elif y.min() < 0 or y.max() >= MAX_CLASSES:
        problems.append(f"{y_name} holds labels from {y.min()} to {y.max()}; they must be class indices from 0")
    return problems


def _dataset(arrays: dict[str, np.ndarray], suffix: str, classes: tuple[str, ...]) -> Dataset:
    images = arrays[f"x_{suffix}"]
    return Dataset(
        classes=classes,
        labels=arrays[f"y_{suffix}"].reshape(-1).astype(np.int32),
        names=tuple(f"{canonical(suffix)}/{i}" for i in range(len(images))),
        read=lambda i: images[i],
    )
