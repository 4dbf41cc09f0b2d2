"""The export command: the best checkpoint of a run, for jaxtl or for PyTorch users, as files that need no run."""

import argparse
import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtl.commands import flags
from jaxtl.deploy.calibrated_head import fold_into_head
from jaxtl.deploy.export import Format, formats
from jaxtl.deploy.hub import check_repository, push_folder
from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build_run
from jaxtl.experiment.calibrating import calibration_to_export
from jaxtl.experiment.model import attempt
from jaxtl.experiment.reporting import export_card
from jaxtl.report.model_card import Exported


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_workdir(parser, "the run whose best checkpoint is written")
    parser.add_argument(
        "--format",
        default="jaxtl",
        choices=tuple(formats()),
        help="; ".join(f"{each.name}: {each.text}" for each in formats().values()) + " (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="PATH",
        help="a file, .safetensors or .pth by the format (added where the name has no ending), or a new folder",
    )
    parser.add_argument(
        "--push",
        default="",
        metavar="ORG/NAME",
        help="also put the folder on the Hugging Face hub, as a new repository, with the token in $HF_TOKEN",
    )
    parser.add_argument("--public", action="store_true", help="let everybody see that repository (default: private)")
    parser.add_argument("--calibrated", action="store_true", help="fold the calibration into the last dense layer")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    flags.refuse_overrides(overrides, "export")
    chosen = {name: getattr(arguments, name) for name in ("calibrated", "push", "public")}
    run(arguments.workdir, arguments.output, arguments.format, **chosen)


def run(
    workdir: Path | str,
    output: Path | str,
    format: str = "jaxtl",
    *,
    calibrated: bool = False,
    push: str = "",
    public: bool = False,
) -> None:
    """Writes parameters, statistics, pixel facts and class names; --config.model.weights=PATH opens them again.

    Raises:
      UserError: there is no run or no best checkpoint, the output is there already or cannot be written, the
        format has no such model, or the hub takes no such repository.
    """
    workdir, output = Path(workdir), Path(output)
    chosen = formats()[format]
    if not output.suffix:
        output = output.with_name(output.name + chosen.suffix) if output.name else output
    problems: list[UserError] = []
    files.refuse_ensemble(
        workdir,
        f"is several networks, of which --format={format} holds one: copy the folder, which needs no run, or export "
        "one of its runs, or the mean that average makes of them",
    )
    facts = attempt(lambda: files.read_json(workdir / "model.json"), problems)
    if chosen.suffix and output.suffix != chosen.suffix:
        problems.append(UserError(f"--output={output} must end in {chosen.suffix}."))
    if not chosen.suffix and output.exists():
        problems.append(UserError(f"--output={output} is there already: --format={format} writes a new folder."))
    problems += _pushing_problems(chosen, push, public)
    if facts is None or problems:
        raise UserError.join(problems)
    model, variables, step = build_run(workdir)
    scaling, said = calibration_to_export(workdir, classes=len(model.classes), step=step, folded=calibrated)
    variables = variables if scaling is None else fold_into_head(variables, model.module, scaling)
    exported = Exported(chosen.library, push or output.name, pushed=bool(push), calibrated=scaling is not None)
    save = functools.partial(
        _save_with_card,
        save=chosen.save,
        card=functools.partial(export_card, workdir, exported) if chosen.library else None,
        variables=variables,
        model=model.name,
        pixels=model.pixels,
        classes=model.classes,
        epsilon=model.epsilon,
        calibration=said,
    )
    size, note = _write_whole(save, output)
    form = "" if scaling is None else ", calibrated"
    print(f"{output}: {model.name} with {len(model.classes)} classes, step {step}{form}, {size:,} bytes")
    if note:
        print(note)
    if push:
        print(f"{push_folder(output, push, public=public)}: {'public' if public else 'private'}")


def _pushing_problems(chosen: Format, push: str, public: bool) -> list[UserError]:
    """Returns why nothing can be put on the hub."""
    if public and not push:
        return [UserError("--public says who may see a repository of the hub: give it with --push=ORG/NAME.")]
    if push and not chosen.library:
        able = " or ".join(f"--format={each.name}" for each in formats().values() if each.library)
        return [UserError(f"--push puts a folder on the hub that others open there: give {able} with it.")]
    problems: list[UserError] = []
    if push:
        attempt(lambda: check_repository(push), problems)
    return problems


def _save_with_card(
    path: Path, *, save: Callable[..., str | None], card: Callable[[str | None], str] | None, **model: Any
) -> str | None:
    """Saves a model, and the card that says of the run what the format has no place for."""
    note = save(path, **model)
    if card is not None:
        (path / "README.md").write_text(card(note), encoding="utf-8", errors="backslashreplace")
    return note


def _write_whole(save: Callable[..., str | None], output: Path) -> tuple[int, str | None]:
    """Writes beside the output and moves it there when it is complete; returns its bytes, and what `save` says."""
    part = output.with_name(output.name + ".part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            said = save(part)
            part.replace(output)
        finally:
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror}.") from error
    written = output.iterdir() if output.is_dir() else [output]
    return sum(file.stat().st_size for file in written), said
