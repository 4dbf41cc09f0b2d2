"""The workdir of an ensemble: its members' weights lie in it, so that it outlives the runs that they come from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtl import pretrained
from jaxtl.checkpoints.manager import read_best
from jaxtl.data.augment.prediction_views import PredictionViews
from jaxtl.deploy.ensemble import Ensemble, Network
from jaxtl.errors import UserError, writing
from jaxtl.evaluate.combining import Combination
from jaxtl.experiment import workdir as files
from jaxtl.experiment.members import Member
from jaxtl.experiment.model import load_model
from jaxtl.experiment.trained_images import training_splits
from jaxtl.pretrained.native import save_native
from jaxtl.trees import nest

FOLDER = "members"


def read_networks(members: Sequence[Member]) -> list[tuple[Network, int]]:
    """Returns the networks of runs at their best checkpoints, each with its step.

    Raises:
      UserError: a checkpoint cannot be read.
    """
    found = []
    for member in members:
        model = load_model(member.facts)
        step, variables = read_best(member.workdir)
        found.append((Network(member.name, model.module, variables, model.pixels, model.classes), step))
    return found


def write_ensemble(workdir: Path, ensemble: Ensemble, members: Sequence[Member], steps: Sequence[int]) -> None:
    """Writes ensemble.json, model.json and a file of weights for each member.

    Args:
      workdir: of the ensemble.
      ensemble: the networks of those members, in their order.
      members: where they come from.
      steps: of their checkpoints.
    """
    listed = []
    (workdir / FOLDER).mkdir(exist_ok=True)
    for number, (network, member, step) in enumerate(zip(ensemble.networks, members, steps, strict=True)):
        path = workdir / FOLDER / f"{number}_{member.workdir.resolve().name}.safetensors"
        with writing(path):
            save_native(
                path,
                network.variables,
                model=member.facts["model"],
                pixels=network.pixels,
                classes=network.classes,
                epsilon=member.facts["epsilon"],
            )
        listed.append(
            {
                "name": network.name,
                "model": member.facts["model"],
                "file": f"{FOLDER}/{path.name}",
                "sha256": _sha256(path),
                "run": str(member.workdir),
                "step": step,
                # Their run may be gone when someone asks.
                "trained": training_splits(member.workdir),
            }
        )
    names = ", ".join(each["model"] for each in listed)
    files.write_json(
        workdir / "model.json",
        {"model": f"ensemble of {names}", "members": len(listed), "classes": list(ensemble.classes)},
    )
    # Last, since it says that the rest is there.
    files.write_json(
        workdir / files.ENSEMBLE,
        {"combination": ensemble.combination.to_json(), "views": ensemble.views.to_json(), "members": listed},
    )


def read_ensemble(workdir: Path) -> Ensemble:
    """Opens an ensemble.

    Raises:
      UserError: a file is missing, or is not as it was written.
    """
    path = workdir / files.ENSEMBLE
    values = files.read_json(path)
    try:
        views = PredictionViews(**{**values["views"], "scales": tuple(values["views"]["scales"])})
        combination = Combination.from_json(values["combination"])
        networks = [_read_network(workdir, member) for member in values["members"]]
        return Ensemble(networks, views, combination)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not as the ensemble command writes it ({error!r}): make it again.") from None


def _read_network(workdir: Path, member: dict[str, Any]) -> Network:
    path = workdir / member["file"]
    if not path.exists():
        raise UserError(f"{path} is missing, a member of the ensemble: put it back, or make the ensemble again.")
    if _sha256(path) != member["sha256"]:
        raise UserError(f"{path} is damaged: its SHA-256 is not that of ensemble.json. Make the ensemble again.")
    opened = pretrained.open_weights(str(path))
    assert opened.pixels is not None
    assert opened.classes is not None
    facts = {
        "model": opened.model,
        "classes": opened.classes,
        "pixels": opened.pixels.to_json(),
        "epsilon": opened.epsilon,
    }
    model = load_model(facts)
    variables = nest({name: opened.arrays[name] for name in opened.arrays})
    return Network(member["name"], model.module, variables, model.pixels, model.classes)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
