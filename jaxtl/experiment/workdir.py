"""The files of a run besides checkpoints and metrics: its JSON files, and predictions.npz."""

import contextlib
import copy
import json
import socket
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxtl import config as config_lib
from jaxtl.errors import UserError, writing
from jaxtl.experiment import lock
from jaxtl.experiment.run_files import CROSS_VALIDATION as CROSS_VALIDATION
from jaxtl.experiment.run_files import ENSEMBLE as ENSEMBLE
from jaxtl.experiment.run_files import FOLD as FOLD
from jaxtl.experiment.run_files import has_checkpoints as has_checkpoints
from jaxtl.experiment.run_files import is_ensemble as is_ensemble
from jaxtl.experiment.run_files import note_unfinished as note_unfinished
from jaxtl.experiment.run_files import read_json as read_json
from jaxtl.experiment.run_files import refuse_cross_validation as refuse_cross_validation
from jaxtl.experiment.run_files import refuse_ensemble as refuse_ensemble
from jaxtl.parallel import processes

FITTED = "fitted"
"""The key of inputs.json for what was cut to the size of the data, and for the values of a preset."""

# Keys that may change between two starts of one run: they change nothing that is trained but its rounding,
# and model.attention the masks of dropout.
_HARMLESS = (
    "data.workers:",
    "eval.report:",
    "data.reader:",
    "data.cache_gib:",
    "eval.calibration:",
    "finetune.cache_dir:",
    "model.attention:",
    "train.mesh:",
    "train.sharding:",
    "train.keep_",
    "log.",
)


def open_workdir(workdir: Path, source: str = "") -> list[Path]:
    """Makes the folder if need be, and sees that every process can write there, into the same one.

    Args:
      workdir: the folder.
      source: of the images, among which it may not lie.

    Returns:
      The folders that were made, the innermost first; for `discard`.

    Raises:
      UserError: it is a file, or not writable, lies among the images, or another folder for some process.
    """
    if source.startswith("folder:"):
        images = Path(source.removeprefix("folder:")).resolve()
        if images in (workdir.resolve(), *workdir.resolve().parents):
            raise UserError(f"--workdir={workdir} lies among the images of {source}: give another folder.")
    made = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]

    def check() -> None:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=workdir):
                pass
        except OSError as error:
            raise UserError(
                f"--workdir={workdir} cannot be written to: {error.strerror}; give another folder."
            ) from error

    processes.on_all_processes(check)
    if jax.process_count() > 1:
        _check_shared(workdir)
    return made


def refuse_run(workdir: Path, command: str, weights: str | None) -> None:
    """Raises a UserError if the workdir is that of a run, whose config.json and results.json must stay.

    Args:
      workdir: where a command would write.
      command: its name, such as "eval".
      weights: those that it was given; if they are not the run's, the error says how to give them. None: it says
        nothing of that, since the command would train on images that the run has seen.
    """
    if (workdir / "checkpoints").exists():
        if weights is None:
            raise UserError(f"--workdir={workdir} is that of a run, whose files must stay: give another folder.")
        own = f"run:{workdir}"
        given = "" if weights == own else f"--config.model.weights={own} "
        raise UserError(
            f"--workdir={workdir} is that of a run, whose files must stay: give another folder. To {command} that run, "
            f"give: {given}--workdir={workdir}_{command}"
        )


def discard(workdir: Path, made: list[Path]) -> None:
    """Takes folders away again that `open_workdir` made for a run that never began, unless something is in them."""
    if not made or not processes.is_main():
        return
    notes = ("config", "inputs", "model", "weights", "attention", "weight_decay", "groups", "data", "environment")
    for name in (*(f"{note}.json" for note in notes), lock.NAME):
        (workdir / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for folder in made:
            folder.rmdir()


def _check_shared(workdir: Path) -> None:
    mark = workdir / f".shared-{processes.gather(uuid.uuid4().hex)[0]}"
    if processes.is_main():
        mark.touch()
    processes.gather()  # It is there now.

    def check() -> None:
        if not mark.exists():
            raise UserError(
                f"--workdir={workdir} is another folder on {socket.gethostname()} than for process 0: "
                "give one on a file system that all hosts share."
            )

    try:
        processes.on_all_processes(check)
    finally:
        if processes.is_main():
            mark.unlink()


# What was the default of these keys before that of today.
_FORMER_DEFAULTS: dict[str, Any] = {
    "augment.scale": [0.08, 1.0],
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 0,
    "train.epochs": 0.0,
    "train.monitor": "accuracy",
}


def with_former_defaults(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Returns the config for the run in a workdir: what is at its default stays as it began."""
    path = workdir / "config.json"
    if not path.exists():
        return config
    saved, config, today = read_json(path), copy.deepcopy(config), config_lib.default()
    for key, former in _FORMER_DEFAULTS.items():
        section, name = key.split(".")
        if config[section][name] == today[section][name] and saved.get(section, {}).get(name) == former:
            config[section][name] = tuple(former) if isinstance(former, list) else former
    return config


def claim(workdir: Path, config: ConfigDict) -> None:
    """Writes config.json into a new workdir, or sees that the one there is the same.

    Raises:
      UserError: another config trained there; lists the differences.
    """
    path = workdir / "config.json"
    # As it will be read again: a tuple in a nested rule comes back as a list.
    values = json.loads(json.dumps(config_lib.to_dict(config)))
    if has_checkpoints(workdir) or (workdir / "results.json").exists():
        changed = config_lib.differences(read_json(path), values)
        # A weight file may have moved: its digest tells whether it is the same, see `claim_inputs`.
        harmless = (*_HARMLESS, "model.weights:") if _has_digested_weights(workdir) else _HARMLESS
        _refuse(workdir, "of another config", [line for line in changed if not line.startswith(harmless)])
    else:
        write_json(path, values)  # Nothing was trained yet, so nothing is lost.


def claim_inputs(workdir: Path, inputs: Mapping[str, str]) -> None:
    """Writes inputs.json, the digests of data and weights, or sees that they are those that the run began with.

    Raises:
      UserError: data or weights have changed since, or some process sees others.
    """
    processes.check_alike("data and weights", inputs)
    path = workdir / "inputs.json"
    if has_checkpoints(workdir) and path.exists():
        before = read_json(path)
        changed = [key for key in {**before, **inputs} if inputs.get(key) != before.get(key)]
        _refuse(workdir, "on other inputs", [f"{in_words(key)} changed" for key in changed])
    else:
        write_json(path, inputs)


def claim_facts(workdir: Path, facts: Mapping[str, Any], changed: Callable[[Any, Any], list[str]]) -> None:
    """Writes model.json, the facts of the model, or sees that they are those that the run began with.

    Args:
      workdir: of the run.
      facts: of its model, as this version reads them from the weights.
      changed: (the facts of before, those of now) -> what differs, a line each.

    Raises:
      UserError: they are others, so that the run would go on with other pixels or another function.
    """
    path = workdir / "model.json"
    if has_checkpoints(workdir) and path.exists():
        _refuse(
            workdir,
            "whose weights are read otherwise now, by this version of jaxtl or because of a file beside them",
            changed(read_json(path), facts),
            "Go on with the version and the files that the run was started with, or begin another one, in another "
            f"--workdir. With --config.model.weights=run:{workdir} it starts from what was learnt, as it was.",
        )
    write_json(path, facts)


def in_words(key: str) -> str:
    """Says what a key of inputs.json stands for."""
    named = {
        "data.train": "the training images",
        "data.val": "the validation images",
        "data.test": "the test images",
        FITTED: "what is cut to the size of the set, or set by a preset,",
    }
    return named[key] if key in named else f"the weight file {key.removeprefix('weights ')}"


def _has_digested_weights(workdir: Path) -> bool:
    # A finished run reads no weights any more, so none would be compared.
    path = workdir / "inputs.json"
    if (workdir / "results.json").exists():
        return False
    return path.exists() and any(key.startswith("weights ") for key in read_json(path))


def began_cached(workdir: Path) -> bool | None:
    """Tells whether the run began with cached features; None before its first checkpoint."""
    path = workdir / "features.json"
    return read_json(path)["cached"] if has_checkpoints(workdir) and path.exists() else None


def head_start(workdir: Path) -> dict[str, Any]:
    """Returns what results.json holds of the linear classifier that the head started from; nothing without one."""
    path = workdir / "head_start.json"
    return {"head_start": read_json(path)} if path.exists() else {}


def forget_head_start(workdir: Path) -> None:
    """Takes head_start.json away; of several processes the first does."""
    if processes.is_main():
        (workdir / "head_start.json").unlink(missing_ok=True)


def began_with_attention(workdir: Path) -> tuple[str, str]:
    """Returns the form of attention that a run began with, and the card; ("auto", "") if it noted none."""
    path = workdir / "attention.json"
    began = read_json(path) if path.exists() else {"form": "auto", "device": ""}
    return began["form"], began["device"]


def began_sparing(workdir: Path) -> tuple[str, ...] | None:
    """Returns what weight decay leaves alone in the run, as regexes of paths; None before its first checkpoint.

    Runs that noted nothing began when it spared no parameter by name.
    """
    path = workdir / "weight_decay.json"
    if not has_checkpoints(workdir):
        return None
    return tuple(read_json(path)["spares"]) if path.exists() else ()


def began_earlier(workdir: Path) -> bool:
    """Tells whether a run began before splits and steps were cut to the size of the data; it then keeps its own."""
    path = workdir / "inputs.json"
    return has_checkpoints(workdir) and FITTED not in (read_json(path) if path.exists() else {})


def began_fitted(workdir: Path) -> dict[str, Any] | None:
    """Returns what took the place of given values when a run began, by key; None before its first checkpoint."""
    if not has_checkpoints(workdir) or began_earlier(workdir):
        return None
    values: dict[str, Any] = json.loads(read_json(workdir / "inputs.json")[FITTED])
    return values


def run_config(workdir: Path) -> ConfigDict:
    """Returns the config that a run was started with."""
    return config_lib.from_dict(read_json(workdir / "config.json"))


def _refuse(workdir: Path, what: str, changed: list[str], advice: str = "") -> None:
    if changed:
        shown = "\n  ".join(changed[:6] + [f"... and {len(changed) - 6} more"] * (len(changed) > 6))
        if (workdir / "results.json").exists():
            advice = (
                "It is finished. To train from what it has learnt: another --workdir, with "
                f"--config.model.weights=run:{workdir}"
            )
        else:
            advice = advice or "Give another --workdir, or what the run was started with to go on with it."
        raise UserError(f"--workdir={workdir} holds a run {what}:\n  {shown}\n{advice}")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a file whole or not at all; of several processes only the first does."""
    _write(path, lambda file: file.write(to_text(values).encode()))


def to_text(values: Mapping[str, Any]) -> str:
    """Returns what a JSON file of plain values holds."""
    return json.dumps(values, indent=1) + "\n"


def write_whole(path: Path, text: str) -> None:
    """Writes a text whole or not at all, and does not ask JAX which process this is, which would take the devices.

    It is for commands that run in one process and read files alone.

    Raises:
      OSError: it cannot be written.
    """
    # Names of images may hold what no encoding has: bytes of another one.
    _replace(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file, as `write_json` does."""
    _write(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def _write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    if processes.is_main():
        with writing(path):
            _replace(path, write)


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        write(file)
    temporary.replace(path)
