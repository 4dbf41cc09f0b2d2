"""tfds:NAME[/CONFIG] is a data set prepared by TensorFlow Datasets as array_record, read without TensorFlow."""

import contextlib
import difflib
import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.data.dataset import Dataset
from jaxtl.errors import UserError

_EMBEDDED = "petals"  # Drawn by jaxtl itself, so it is prepared when it is first asked for.
_HOW_TO_PREPARE = "pip install 'jaxtl[prepare]' && python -m jaxtl.main prepare --config=FILE"

# TFDS takes about a second to import, which sources of other kinds need not spend: it is imported where it is used.


class _Splits(Mapping[str, Dataset]):
    """The splits of a prepared set; the labels of a split are read when it is first asked for."""

    def __init__(self, builder: Any, image: str, label: str, classes: tuple[str, ...]):
        self._builder, self._image, self._label, self._classes = builder, image, label, classes
        self._open: dict[str, Dataset] = {}

    def __getitem__(self, split: str) -> Dataset:
        if split not in self._open:
            self._open[split] = _dataset(self._builder, split, self._image, self._label, self._classes)
        return self._open[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._builder.info.splits)

    def __len__(self) -> int:
        return len(self._builder.info.splits)


def read_tfds(name: str, *, data_dir: str = "") -> tuple[tuple[str, ...], Mapping[str, Dataset]]:
    """Opens a prepared data set; the embedded one, petals, is prepared here when it is not.

    Args:
      name: a data set of TFDS, as in "cifar10", "petals/transfer" or "cifar10:3.0.2".
      data_dir: where it was prepared; "" is what TFDS itself takes, $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
      The class names, and the splits by name.

    Raises:
      UserError: not prepared (said at once, without trying the network), prepared in another file format, or no set of
        labelled images.
    """
    builder = _prepared(name, _folder(data_dir))
    image, label = _keys(builder, name)
    classes = tuple(builder.info.features[label].names)
    return classes, _Splits(builder, image, label, classes)


def prepare(name: str, *, data_dir: str = "") -> Path:
    """Downloads a data set and prepares it as array_record; that takes TensorFlow, reading it does not.

    Returns:
      The folder it was prepared in.

    Raises:
      UserError: TensorFlow is missing, the name is unknown, or the download failed.
    """
    import tensorflow_datasets as tfds

    folder = _folder(data_dir)
    if _is_embedded(name):
        return Path(_prepared(name, folder).data_path)
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise UserError(f"preparing {name} needs TensorFlow: pip install 'jaxtl[prepare]'") from error
    try:
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(f"TFDS has no data set {name!r}{_nearest(name)}") from error
    except OSError as error:
        raise UserError(f"preparing {name} in {folder} failed: {error}") from error
    return Path(builder.data_path)


def _folder(data_dir: str) -> str:
    import tensorflow_datasets as tfds

    # A string, not a Path: it may be an address such as gs://bucket/folder.
    return os.path.expanduser(data_dir or str(tfds.core.constants.DATA_DIR))


def _prepared(name: str, folder: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        # From its files alone: the builder's code would look for the set on the network, for minutes.
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=folder)
    except tfds.core.registered.DatasetNotFoundError as error:
        if _is_embedded(name):
            return _draw(name, folder)
        raise UserError(
            f"data set {name!r} is not prepared in {folder}{_nearest(name)}\n"
            f"on a machine with a network: {_HOW_TO_PREPARE}; or set data_dir to where it is prepared",
            arguments=["data_dir"],
        ) from error


def _is_embedded(name: str) -> bool:
    return name.split("/")[0].split(":")[0] == _EMBEDDED


def _draw(name: str, folder: str) -> Any:
    from jaxtl.data.sources import petals

    config = name.partition("/")[2].partition(":")[0]
    known = [known.name for known in petals.Petals.BUILDER_CONFIGS]
    if config not in known:
        raise UserError(f"data set {name!r} is unknown; the embedded ones are petals/{' and petals/'.join(known)}")
    try:
        builder = petals.Petals(config=config, data_dir=folder, file_format="array_record")
        # TFDS tells of a download, which there is none of here, by a hundred lines.
        print(f"draws {name} into {folder}, once", file=sys.stderr)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder.download_and_prepare()
    except OSError as error:
        raise UserError(
            f"{name} cannot be prepared in {folder}: {error}; set data_dir", arguments=["data_dir"]
        ) from error
    return builder


def _nearest(name: str) -> str:
    import tensorflow_datasets as tfds

    base = name.split("/")[0].split(":")[0]
    known = [*tfds.list_builders(with_community_datasets=False), _EMBEDDED]
    near = difflib.get_close_matches(base, known, n=1)
    return f" (TFDS knows no {base}; the nearest is {near[0]})" if base not in known and near else ""


def _keys(builder: Any, name: str) -> tuple[str, str]:
    """Returns the keys of the image and of the label."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    match builder.info.supervised_keys:
        case (image, label) if image in images and label in labels:
            return image, label
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    described = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items()))
    raise UserError(f"data set {name!r} must have one image and one class label; its features are {described}")


def _dataset(builder: Any, split: str, image: str, label: str, classes: tuple[str, ...]) -> Dataset:
    import tensorflow_datasets as tfds

    # The files stay encoded: jaxtl decodes all images in one way, and labels can be read without decoding any.
    encoded = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    try:
        records = builder.as_data_source(split=split, decoders=encoded)
    except NotImplementedError as error:
        raise UserError(
            f"{builder.info.full_name} is prepared as {builder.info.file_format.value}, which only TensorFlow reads; "
            f"prepare it again, as array_record: {_HOW_TO_PREPARE}"
        ) from error
    labels = np.fromiter((records[i][label] for i in range(len(records))), np.int32, len(records))
    if len(labels) and labels.min() < 0:
        raise UserError(f"split {split!r} of {builder.info.full_name} has no labels; choose another split")
    return Dataset(
        classes=classes,
        labels=labels,
        names=tuple(f"{split}/{i}" for i in range(len(records))),
        read=lambda i: records[i][image],
    )
