"""The predict command: one JSON line for each image, from the best checkpoint of a run."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.commands import flags
from jaxtl.data.formats import describe_others
from jaxtl.data.normalize import normalize
from jaxtl.deploy.fetch import is_address
from jaxtl.deploy.predictor import Place, find_images, predict
from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build_run
from jaxtl.train.losses import to_probabilities


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_workdir(parser, "the run whose best checkpoint predicts")
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="images computed at once (32)")
    parser.add_argument(
        "files", nargs="+", type=_place, metavar="FILE_OR_DIR", help="images, folders of images, or addresses of images"
    )


def _place(text: str) -> Place:
    return text if is_address(text) else Path(text)


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Runs the command from its flags; returns 1 if a file could not be read."""
    flags.refuse_overrides(overrides, "predict")
    if arguments.batch_size < 1:
        raise UserError(f"--batch_size is {arguments.batch_size}, but it must be 1 or more.")
    return run(arguments.workdir, arguments.files, batch_size=arguments.batch_size)


def run(workdir: Path | str, paths: Sequence[Path | str], *, batch_size: int = 32) -> int:
    """Prints a line for each image; returns 1 if one could not be read, else 0."""
    workdir = Path(workdir)
    model, variables, _ = build_run(workdir)
    found = find_images([_place(str(path)) for path in paths])
    others = ""
    if found.others:
        kinds = describe_others([str(path) for path in found.others])
        others = f"not taken, since no images: {kinds}"
    if not found.images:
        raise UserError(f"there is no image file in {', '.join(map(str, paths))}." + f"\n{others}" * bool(others))
    batch_size = min(batch_size, len(found.images))
    loss = files.run_config(workdir).train.loss

    @jax.jit
    def probabilities(images: jax.Array) -> jax.Array:
        logits = model.module.apply(variables, normalize(images, model.pixels), train=False)
        return to_probabilities(jnp.asarray(logits), loss)

    failed = False
    for line in predict(
        found.images,
        probabilities=lambda images: np.asarray(probabilities(images)),
        classes=model.classes,
        pixels=model.pixels,
        batch_size=batch_size,
    ):
        failed |= "error" in line
        print(json.dumps(line, ensure_ascii=False), flush=True)
    if others:
        print(others, file=sys.stderr)
    return int(failed)
