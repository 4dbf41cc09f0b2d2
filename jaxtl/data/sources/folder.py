"""folder:DIR is DIR/<split>/<class>/<image>, or DIR/<class>/<image> to be cut by percentage."""

import os
from pathlib import Path

import numpy as np

from jaxtl.data.dataset import Dataset
from jaxtl.data.formats import describe_others, is_image, is_photograph
from jaxtl.data.remarks import few
from jaxtl.data.splits import NAMES, canonical
from jaxtl.errors import UserError

LAYOUT = "expected DIR/<split>/<class>/<image> (splits train, val, test) or DIR/<class>/<image>"
# What operating systems leave in every folder; nobody means it as data.
_DROPPINGS = {"thumbs.db", "desktop.ini", "__macosx"}


def read_folder(directory: str, notes: list[str] | None = None) -> dict[str, Dataset]:
    """Lists the images of a folder; no image is opened.

    Args:
      directory: the folder.
      notes: takes a line on the files that are not used, if there are any: what is no image in class folders, and
        images beside the folders of splits.

    Returns:
      The splits by name; a folder without splits has one, called "all". Classes are sorted by name and common to all
      splits; an example's name is its path below the folder.

    Raises:
      UserError: missing or empty folders, classes without images, images outside of classes, all at once.
    """
    root = Path(directory).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"data folder {root} {what}; {LAYOUT}", arguments=["source"])
    problems: list[str] = []
    others: list[str] = []
    found = {
        split: _list_classes(root, subfolder, problems, others)
        for split, subfolder in _split_folders(root, problems, others).items()
    }
    if problems:
        raise UserError("\n".join(problems), arguments=["source"])
    if others and notes is not None:
        notes.append(f"files of {root} that are not used: {describe_others(others)}")
    classes = tuple(sorted({name for by_class in found.values() for name in by_class}))
    return {split: _dataset(root, classes, by_class) for split, by_class in found.items()}


def _split_folders(root: Path, problems: list[str], unused: list[str]) -> dict[str, str]:
    """Maps each split to its folder below the root; {"all": ""} when the class folders lie in the root itself.

    Images that lie beside the folders of splits are added to `unused`.
    """
    folders, files = _visible(root, problems)
    if not folders:
        what = f"holds {len(files)} files but no class folders" if files else "is empty"
        raise UserError(f"data folder {root} {what}; {LAYOUT}", arguments=["source"])
    like_splits = [name for name in folders if canonical(name.lower()) in NAMES]
    # "train" may also be a class (the vehicle): it is a split only where some such folder holds folders.
    if not any(_visible(root / name, [])[0] for name in like_splits):
        if like_splits == folders:
            raise UserError(
                f"the split folders {', '.join(folders)} of {root} hold no class folders; {LAYOUT}",
                arguments=["source"],
            )
        return {"all": ""}
    others = [name for name in folders if name not in like_splits]
    if others:
        problems.append(
            f"{root} holds split folders ({', '.join(like_splits)}) and also {few(others)}; "
            "rename those to train, val or test, or move them away"
        )
    unused += [name for name in files if is_image(root / name) or is_photograph(root / name)]
    splits: dict[str, str] = {}
    for name in like_splits:
        split = canonical(name.lower())
        if split in splits:
            problems.append(f"{root} holds both {splits[split]} and {name}, which mean the same split; keep one")
        splits[split] = name
    return dict(sorted(splits.items(), key=lambda item: NAMES.index(item[0])))


def _list_classes(root: Path, subfolder: str, problems: list[str], others: list[str]) -> dict[str, list[str]]:
    """Maps each class to the paths of its images below the root, in sorted order; adds the other files to `others`."""
    parent = root / subfolder
    folders, files = _visible(parent, problems if subfolder else [])
    loose = [name for name in files if is_image(parent / name) or is_photograph(parent / name)]
    if loose:
        problems.append(f"{len(loose)} images lie outside a class folder in {parent}: {few(loose)}; {LAYOUT}")
    if not folders:
        problems.append(f"{parent} holds no class folders; {LAYOUT}")
    by_class = {}
    for name in folders:
        folder = parent / name
        deeper, candidates = _visible(folder, problems)
        images = [file for file in candidates if is_image(folder / file)]
        unread = sorted(set(candidates) - set(images))
        prefix = f"{subfolder}/{name}/" if subfolder else f"{name}/"
        if deeper:
            problems.append(f"class folder {folder} holds folders: {few(deeper)}; {LAYOUT}")
        if not images:
            what = f"no images that are read, but {describe_others(unread, 3)}" if unread else "no images"
            problems.append(f"class folder {folder} holds {what}; add some or remove the folder")
        by_class[name] = [prefix + file for file in images]
        others += [prefix + file for file in unread]
    return by_class


def _dataset(root: Path, classes: tuple[str, ...], by_class: dict[str, list[str]]) -> Dataset:
    names = tuple(path for name in by_class for path in by_class[name])
    counts = [len(images) for images in by_class.values()]
    labels = np.repeat(np.array([classes.index(name) for name in by_class], np.int32), counts)
    return Dataset(classes=classes, labels=labels, names=names, read=lambda i: read_file(root / names[i]), root=root)


def read_file(path: Path) -> bytes:
    """Returns the bytes of a file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _visible(folder: Path, problems: list[str]) -> tuple[list[str], list[str]]:
    """Returns the sorted names of the folders and of the files; a link counts as what it points at."""
    folders: list[str] = []
    files: list[str] = []
    dangling: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _DROPPINGS:
                    continue
                kind = folders if entry.is_dir() else files if entry.is_file() else dangling
                kind.append(entry.name)
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}") from error
    if dangling:
        problems.append(f"{len(dangling)} links in {folder} lead nowhere: {few(sorted(dangling))}")
    return sorted(folders), sorted(files)
