"""The folders below WORKDIR/checkpoints: N is step N; what is moved out of the way has a name of its own.

replaced-N was step N until it was saved again, and is step N again if that was cut short; damaged-N is kept for a
person to look at. See `frozen` for the folder of that name.
"""

import re
import shutil
from pathlib import Path

_REPLACED, _DAMAGED = "replaced-", "damaged-"


def steps_in(folder: Path) -> list[int]:
    """Returns the steps that lie in a folder, or will again once it is opened, in order."""
    names = [child.name.removeprefix(_REPLACED) for child in folder.iterdir()] if folder.is_dir() else []
    return sorted({int(name) for name in names if name.isdigit()})


def all_in(folder: Path) -> list[Path]:
    """Returns the folders of all steps, those that were moved away as well."""
    names = re.compile(rf"({_REPLACED}|{_DAMAGED})?\d+(-\d+)?")
    return sorted(child for child in folder.iterdir() if names.fullmatch(child.name))


def set_aside(folder: Path, step: int) -> Path:
    """Moves a step away that is to be saved again, and returns where it is until then."""
    aside = folder / f"{_REPLACED}{step}"
    (folder / str(step)).rename(aside)
    return aside


def put_back(folder: Path) -> None:
    """Undoes `set_aside` where the new one never became whole."""
    for aside in folder.glob(f"{_REPLACED}*"):
        target = folder / aside.name.removeprefix(_REPLACED)
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(target)


def remove_unfinished(folder: Path) -> None:
    """Removes what Orbax was writing when its process ended.

    Orbax would do so in a thread of its own, which goes on after its manager is closed, and may take what the next
    manager is writing.
    """
    for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def damaged_name(folder: Path, step: int) -> Path:
    """Returns a name for a damaged step that nothing has yet."""
    target, number = folder / f"{_DAMAGED}{step}", 1
    while target.exists():
        number += 1
        target = folder / f"{_DAMAGED}{step}-{number}"
    return target
