"""Exports a run: what is written, where it comes from, and the images that it is verified on."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from jaxtl import data
from jaxtl.data.decode import ImageError
from jaxtl.deploy.calibrated_head import fold_into_head
from jaxtl.deploy.export import Format, formats
from jaxtl.deploy.export.program import Program, Request
from jaxtl.deploy.export.provenance import Provenance
from jaxtl.deploy.export.verification import draw_views
from jaxtl.deploy.hub import check_repository, push_folder
from jaxtl.errors import UserError, first_line
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build_run
from jaxtl.experiment.calibrating import calibration_to_export, is_sigmoid
from jaxtl.experiment.model import Model, attempt
from jaxtl.experiment.reporting import read_facts
from jaxtl.experiment.splits import open_splits
from jaxtl.report.model_card import Exported, model_card
from jaxtl.report.page import public_location

# Images of val that an export is compared on before it is kept.
_IMAGES = 16
# Images of train that scales of activations are found with, and of val that accuracy is measured on.
_CALIBRATION, _MEASURED = 100, 1000


@dataclass(frozen=True)
class Options:
    """What an export is asked for.

    Attributes:
      format: one of `formats()`.
      calibrated: whether the calibration is folded into the last dense layer.
      dtype: what it computes in: one of the format's `dtypes`.
      with_pixels: whether pixels are normalised within.
      push: the repository of the hub, "org/name", that the folder is put into, too; "" for none.
      public: whether everybody may see that.
    """

    format: str = "jaxtl"
    calibrated: bool = False
    dtype: str = "float32"
    with_pixels: bool = False
    push: str = ""
    public: bool = False


def export_run(workdir: Path, output: Path, options: Options) -> list[str]:
    """Exports the best checkpoint of a run, and returns what is to be said of it, in lines.

    Args:
      workdir: of the run.
      output: the file, whose ending may be left out, or the new folder.
      options: what is asked for.

    Raises:
      UserError: there is no run or no best checkpoint, the output is there already or cannot be written, the format has
        no such model or option or computes otherwise, or what it takes is not installed.
    """
    chosen = formats()[options.format]
    if chosen.suffix and not output.suffix and output.name:
        output = output.with_name(output.name + chosen.suffix)
    _check(workdir, output, chosen, options)
    model, variables, step = build_run(workdir)
    scaling, said = calibration_to_export(workdir, classes=len(model.classes), step=step, folded=options.calibrated)
    variables = variables if scaling is None else fold_into_head(variables, model.module, scaling)
    program = Program(
        model.name,
        model.module,
        variables,
        model.pixels,
        model.classes,
        epsilon=model.epsilon,
        sigmoid=is_sigmoid(workdir),
        calibration=said,
    )
    origin = replace(provenance_of(workdir, model, step), format=chosen.name, calibrated=scaling is not None)
    views, words = _views(workdir, program) if chosen.compares else (draw_views(1), "")
    request = Request(origin, views, words, options.dtype, options.with_pixels)
    request = replace(request, **_samples(workdir, program)) if chosen.measures else request
    place, folded = options.push or output.name, scaling is not None
    exported = Exported(chosen.library, place, pushed=bool(options.push), calibrated=folded)

    def save(part: Path) -> str | None:
        note = chosen.save(part, program, request)
        if chosen.library:
            card = model_card(read_facts(workdir, {}), replace(exported, notes=[note] if note else []))
            (part / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")
        return note

    size, note = _write_whole(save, output)
    form = "" if scaling is None else ", calibrated"
    first = f"{output}: {model.name} with {len(model.classes)} classes, step {step}{form}, {size:,} bytes"
    last = []
    if options.push:
        seen = "public" if options.public else "private"
        last.append(f"{push_folder(output, options.push, public=options.public)}: {seen}")
    return [first, *(note.splitlines() if note else ()), *last]


def _check(workdir: Path, output: Path, chosen: Format, options: Options) -> None:
    """Raises a UserError that says all that is wrong before anything is computed."""
    problems: list[UserError] = []
    files.refuse_ensemble(
        workdir,
        f"is several networks, of which --format={chosen.name} holds one: copy the folder, which needs no run, or "
        "export one of its runs, or the mean that average makes of them",
    )
    facts = attempt(lambda: files.read_json(workdir / "model.json"), problems)
    if chosen.suffix and output.suffix != chosen.suffix:
        problems.append(UserError(f"--output={output} must end in {chosen.suffix}."))
    if chosen.suffix and output.is_dir():
        problems.append(UserError(f"--output={output} is a folder: --format={chosen.name} writes a file."))
    if not chosen.suffix and output.exists():
        what = f"a new folder, or a new {chosen.archive}" if chosen.archive else "a new folder"
        problems.append(UserError(f"--output={output} is there already: --format={chosen.name} writes {what}."))
    if options.dtype not in chosen.dtypes:
        allowed = " or ".join(chosen.dtypes)
        problems.append(UserError(f"--dtype={options.dtype}, but --format={chosen.name} is written in {allowed}."))
    if options.with_pixels and not chosen.takes_pixels:
        able = ", ".join(f"--format={each.name}" for each in formats().values() if each.takes_pixels)
        problems.append(UserError(f"--with-pixels is for {able}, not for --format={chosen.name}."))
    if chosen.require is not None:
        attempt(chosen.require, problems)
    problems += _pushing_problems(chosen, options)
    if facts is None or problems:
        raise UserError.join(problems)


def _pushing_problems(chosen: Format, options: Options) -> list[UserError]:
    """Returns why nothing can be put on the hub."""
    if options.public and not options.push:
        return [UserError("--public says who may see a repository of the hub: give it with --push=ORG/NAME.")]
    if options.push and not chosen.library:
        able = " or ".join(f"--format={each.name}" for each in formats().values() if each.library)
        return [UserError(f"--push puts a folder on the hub that others open there: give {able} with it.")]
    problems: list[UserError] = []
    if options.push:
        attempt(lambda: check_repository(options.push, public=options.public), problems)
    return problems


def provenance_of(workdir: Path, model: Model, step: int) -> Provenance:
    """Returns where a run comes from, in words that name no place of this machine.

    Args:
      workdir: of the run.
      model: of it.
      step: of the checkpoint.
    """
    config = workdir / "config.json"
    inputs = _optional(workdir / "inputs.json")
    source = files.read_json(config).get("data", {}).get("source", "") if config.exists() else ""
    return Provenance(
        run=workdir.resolve().name,
        step=step,
        model=model.name,
        config_sha256=hashlib.sha256(config.read_bytes()).hexdigest() if config.exists() else "",
        data=public_location(source),
        weights=_weights(_optional(workdir / "weights.json")),
        inputs={key.removeprefix("data."): value for key, value in inputs.items() if key.startswith("data.")},
        notes={"pixels": model.pixels.to_json(), "epsilon": model.epsilon},
    )


def _optional(path: Path) -> dict[str, Any]:
    return dict(files.read_json(path)) if path.exists() else {}


def _weights(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what is said of the weights that training began with, from the load report."""
    if not report:
        return None
    how, of, runs = str(report.get("location", "")).partition(" of ")
    location = public_location(str(report.get("location", "")))
    if of and how.startswith("average by "):
        location = how + of + ", ".join(PurePath(run).name for run in runs.split(", "))
    known = {key: report.get(key) or "" for key in ("revision", "license")}
    digests = {PurePath(name).name: digest for name, digest in report.get("sha256", {}).items()}
    return {"location": location, **known, "sha256": digests}


def _views(workdir: Path, program: Program) -> tuple[np.ndarray, str]:
    """Returns images to verify on, uint8 [N, S, S, C], and what they are: of val if its data are here, else drawn."""
    size, _, channels = program.shape
    drawn = draw_views(size, channels)
    try:
        splits = _open(workdir)
    except UserError as error:
        return drawn, f"{len(drawn)} drawn images, since the run's own cannot be opened here: {first_line(error)}"
    if channels != 3:
        return drawn, f"{len(drawn)} drawn images of {channels} channels"
    views, _ = _read(splits.val, program, _IMAGES)
    if not len(views):
        return drawn, f"{len(drawn)} drawn images, since none of val can be read"
    return np.concatenate([views, drawn]), f"{len(views)} images of val and {len(drawn)} drawn ones"


def _samples(workdir: Path, program: Program) -> dict[str, Any]:
    """Returns "train" and "val" of a `Request`, as far as the images of the run are here."""
    if program.shape[-1] != 3:
        return {}
    try:
        splits = _open(workdir)
    except UserError:
        return {}
    train, _ = _read(splits.train, program, _CALIBRATION)
    val, indices = _read(splits.val, program, _MEASURED)
    # A set without names of its own has those of the weights.
    known = len(splits.val.classes) == len(program.classes)
    return {
        "train": train if len(train) else None,
        "val": (val, splits.val.labels[indices]) if len(val) and known else None,
    }


def _open(workdir: Path) -> Any:
    config = files.run_config(workdir)
    source = data.open_source(config.data.source, data_dir=config.data.data_dir)
    return open_splits(config, source, by_class=not files.began_earlier(workdir))


def _read(split: data.Dataset, program: Program, count: int) -> tuple[np.ndarray, list[int]]:
    """Returns up to `count` images from all over a split as views, and which they are; broken ones are left out."""
    views, indices = [], []
    for index in map(int, np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int))):
        try:
            view = data.eval_view(data.decode(split.read(index), split.where(index)), program.pixels)
        except (ImageError, OSError):  # What is left out of training, or gone since, is no reason to write nothing.
            continue
        views.append(view)
        indices.append(index)
    return np.stack(views) if views else np.zeros((0, *program.shape), np.uint8), indices


def _write_whole(save: Callable[[Path], str | None], output: Path) -> tuple[int, str | None]:
    """Writes beside the output and moves it there when it is complete; returns its bytes, and what `save` says."""
    beside: list[Path] = []
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own, so that nothing else is taken for a part of it.
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as folder:
            part = Path(folder) / output.name
            said = save(part)
            # What a file has beside it goes first: what is there under its own name is whole.
            for file in Path(folder).iterdir():
                if file != part:
                    beside.append(file.replace(output.with_name(file.name)))
            part.replace(output)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror or error}.") from error
    written = [file for file in output.rglob("*") if file.is_file()] if output.is_dir() else [output, *beside]
    return sum(file.stat().st_size for file in written), said
