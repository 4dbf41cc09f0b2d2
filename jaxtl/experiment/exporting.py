"""Exports a run: what is written, where it comes from, and the images that it is verified on."""

import hashlib
import shutil
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
from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build_run
from jaxtl.experiment.calibrating import calibration_to_export, is_sigmoid
from jaxtl.experiment.model import Model, attempt
from jaxtl.experiment.splits import open_splits
from jaxtl.report.page import public_location

# Images of val that an export is compared on before it is kept.
_IMAGES = 16


@dataclass(frozen=True)
class Options:
    """What an export is asked for.

    Attributes:
      format: one of `formats()`.
      calibrated: whether the calibration is folded into the last dense layer.
      dtype: what it computes in: one of the format's `dtypes`.
      with_pixels: whether pixels are normalised within.
    """

    format: str = "jaxtl"
    calibrated: bool = False
    dtype: str = "float32"
    with_pixels: bool = False


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
    size, note = _write_whole(lambda part: chosen.save(part, program, request), output)
    form = "" if scaling is None else ", calibrated"
    first = f"{output}: {model.name} with {len(model.classes)} classes, step {step}{form}, {size:,} bytes"
    return [first, *(note.splitlines() if note else ())]


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
    if facts is None or problems:
        raise UserError.join(problems)


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
        config = files.run_config(workdir)
        source = data.open_source(config.data.source, data_dir=config.data.data_dir)
        val = open_splits(config, source, by_class=not files.began_earlier(workdir)).val
    except UserError:
        return drawn, f"{len(drawn)} drawn images, since the run's own are not here"
    if channels != 3:
        return drawn, f"{len(drawn)} drawn images of {channels} channels"
    views = []
    for index in np.unique(np.linspace(0, len(val) - 1, _IMAGES).round().astype(int)):
        try:
            views.append(data.eval_view(data.decode(val.read(int(index)), val.where(int(index))), program.pixels))
        except (ImageError, OSError):  # What is left out of training, or gone since, is no reason to write nothing.
            continue
    if not views:
        return drawn, f"{len(drawn)} drawn images, since none of val can be read"
    return np.stack([*views, *drawn]), f"{len(views)} images of val and {len(drawn)} drawn ones"


def _write_whole(save: Callable[[Path], str | None], output: Path) -> tuple[int, str | None]:
    """Writes beside the output and moves it there when it is complete; returns its bytes, and what `save` says."""
    part = output.with_name(f"{output.name}.part")
    beside: list[Path] = []
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _discard(part)  # What a process that was killed has left.
        try:
            said = save(part)
            # What a file has beside it goes first: what is there under its own name is whole.
            for file in _beside(part):
                beside.append(file.replace(output.with_name(output.name + file.name.removeprefix(part.name))))
            part.replace(output)
        finally:
            _discard(part)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror}.") from error
    written = [file for file in output.rglob("*") if file.is_file()] if output.is_dir() else [output, *beside]
    return sum(file.stat().st_size for file in written), said


def _discard(part: Path) -> None:
    for file in (part, *_beside(part)):
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)


def _beside(part: Path) -> list[Path]:
    return [file for file in part.parent.iterdir() if file.name.startswith(f"{part.name}.")]
