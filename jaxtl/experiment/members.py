"""Runs that are put together, their weights or their predictions: read, and seen to fit each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl import data
from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.changes import changed_facts, digests
from jaxtl.experiment.comparing import refuse_twice, short_names

_SHOWN = 5
_NO_WEIGHTS = "has no weights of one network: give a run that is one"


@dataclass(frozen=True)
class Member:
    """A finished run that is put together with others.

    Attributes:
      name: short, and its own among them.
      workdir: where it lies.
      facts: as model.json holds them.
      results: as results.json holds them.
    """

    name: str
    workdir: Path
    facts: Mapping[str, Any]
    results: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, in the order of its logits."""
        return tuple(self.facts["classes"])

    @property
    def config(self) -> ConfigDict:
        """The config that it was started with."""
        return files.run_config(self.workdir)

    def inputs(self) -> dict[str, str]:
        """Returns the digests of its data and weights; {} of a run from before they were kept."""
        path = self.workdir / "inputs.json"
        return dict(files.read_json(path)) if path.exists() else {}


def read_members(workdirs: Sequence[Path], *, no_ensemble: str = _NO_WEIGHTS) -> list[Member]:
    """Reads the files of finished runs, but for their weights.

    Args:
      workdirs: of the runs.
      no_ensemble: why none of them may be an ensemble: what goes on after "an ensemble".

    Raises:
      UserError: a folder holds no finished run, or is given twice.
    """
    refuse_twice(workdirs)
    names = short_names(workdirs)
    return [_read(name, workdir, no_ensemble) for name, workdir in zip(names, workdirs, strict=True)]


def _read(name: str, workdir: Path, no_ensemble: str) -> Member:
    if not workdir.is_dir():
        raise UserError(f"there is no folder {workdir}: give the workdirs of runs.")
    files.refuse_ensemble(workdir, no_ensemble)
    if not (workdir / "model.json").exists() or not files.has_checkpoints(workdir):
        raise UserError(f"{workdir} holds no run: give the workdirs of runs that have trained.")
    if not (workdir / "results.json").exists():
        raise UserError(f"the run in {workdir} is not finished: go on with it first, by the command that began it.")
    return Member(name, workdir, files.read_json(workdir / "model.json"), files.read_json(workdir / "results.json"))


def check_output(workdir: Path, members: Sequence[Member], *, flag: str = "--workdir") -> None:
    """Sees that a new run may be written there, before anything is computed; `flag` is what says where.

    Raises:
      UserError: it lies in a member, or holds something of another run.
    """
    check_apart(workdir, members, flag=flag)
    there = [name for name in ("config.json", "checkpoints", "results.json") if (workdir / name).exists()]
    if there:
        raise UserError(f"{flag}={workdir} holds a run already ({there[0]}): give a new folder.")


def check_apart(workdir: Path, members: Sequence[Member], *, flag: str = "--workdir") -> None:
    """Sees that what is written there is written into no member; `flag` is what says where.

    Raises:
      UserError: it lies in a member, or is one.
    """
    for member in members:
        if member.workdir.resolve() in (workdir.resolve(), *workdir.resolve().parents):
            raise UserError(f"{flag}={workdir} is {member.workdir}, or lies in it: give a new folder.")


def check_classes(members: Sequence[Member], *, ordered: bool = False) -> None:
    """Sees that all have the same classes, by their names; `ordered`: in the same order, too.

    Raises:
      UserError: they have not.
    """
    first, *others = members
    for other in others:
        only = [sorted(set(a.classes) - set(b.classes)) for a, b in ((first, other), (other, first))]
        if any(only):
            parts = [
                f"only {member.name} has {_some(names)}"
                for member, names in zip((first, other), only, strict=True)
                if names
            ]
            raise UserError(
                f"{first.name} and {other.name} have other classes, {len(first.classes)} and {len(other.classes)}: "
                f"{'; '.join(parts)}. Give runs with the same classes."
            )
        if ordered and first.classes != other.classes:
            raise UserError(
                f"{first.name} and {other.name} have their classes in another order, so the rows of their heads do not "
                "fit: train both on data with one order, or put their predictions together with ensemble."
            )
    for member in members:
        if len(set(member.classes)) < len(member.classes):
            raise UserError(f"{member.name} has several classes of one name: give each a name of its own.")


def check_architecture(members: Sequence[Member]) -> None:
    """Sees that all are one network that gets its pixels alike, so that their weights have a mean.

    Raises:
      UserError: they are not.
    """
    first, *others = members
    for other in others:
        differ = changed_facts(first.facts, other.facts)
        if any(line.startswith("pixels.") for line in differ) and all(line.startswith("pixels.") for line in differ):
            raise UserError(
                f"{first.name} and {other.name} prepare their pixels otherwise ({_some_lines(differ)}), so their "
                "weights have no mean of use: train them alike, or put their predictions together with ensemble."
            )
        if differ:
            names = (first.facts["model"], other.facts["model"])
            what = f"{names[0]} and {names[1]}" if names[0] != names[1] else _some_lines(differ)
            raise UserError(
                f"{first.name} and {other.name} are different networks ({what}), so their weights have no mean: put "
                "their predictions together with ensemble."
            )


def check_unchanged(member: Member, splits: data.Splits) -> None:
    """Sees that the splits are those that a run had: what it trained on is not to judge it.

    Raises:
      UserError: images, labels or splits are others now.
    """
    before = member.inputs()
    changed = [key for key, value in digests(splits, {}).items() if before.get(key, value) != value]
    if changed:
        raise UserError(
            f"{' and '.join(files.in_words(key) for key in changed)} of {member.name} are others now, and may be among "
            "those that it was trained on: put the data back as they were."
        )


def check_same_images(members: Sequence[Member]) -> None:
    """Sees that all validate, and test, on the same images: those of one must not have trained another.

    Raises:
      UserError: they do not.
    """
    first, *others = members
    for other in others:
        mine, theirs = first.inputs(), other.inputs()
        for split, words in (("data.val", "validate"), ("data.test", "test")):
            # Where one has no test, its training images may be what the other tests on.
            if mine.get(split) != theirs.get(split):
                raise UserError(
                    f"{first.name} and {other.name} {words} on different images, so that images of one may have "
                    "trained the other: give runs of the same data and splits."
                )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def _some_lines(lines: Sequence[str]) -> str:
    return ", ".join(lines[:2]) + (", ..." if len(lines) > 2 else "")
