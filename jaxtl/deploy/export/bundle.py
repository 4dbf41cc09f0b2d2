"""bundle: a folder, or a .zip, that runs with jax and numpy alone on CPUs, GPUs and TPUs."""

import importlib.util
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import pretrained
from jaxtl.deploy.export import Format, Runner, verification
from jaxtl.deploy.export import notes as notes_lib
from jaxtl.deploy.export import provenance as origins
from jaxtl.deploy.export.notes import Notes, write_notes
from jaxtl.deploy.export.program import Program, Request
from jaxtl.deploy.export.provenance import read_provenance
from jaxtl.deploy.export.verification import read_reference, require_same
from jaxtl.errors import UserError
from jaxtl.trees import flatten, nest

PLATFORMS = ("cpu", "cuda", "tpu")
"""What a program is lowered for, all in one file."""

NEEDS = "pip install 'jaxtl[bundle]'"
_READER = Path(__file__).with_name("bundle_reader.py")
_MAIN = "from predict import main\n\nraise SystemExit(main())\n"
_README = """{name}, exported by jaxtl {version}.

    python {folder} photo.jpg
    python {folder} --verify

It takes jax {jax} or later (tried with that one; JAX promises half a year of later ones), numpy, and Pillow to read
photographs. bundle.json says what it knows and how images are prepared, provenance.json where it comes from; predict.py
runs it, model.safetensors are its weights, program.jax is what computes with them, vendor/ holds a package
(flatbuffers, of Google, Apache-2.0) by which jax reads that.
"""


def save_bundle(path: Path, program: Program, request: Request) -> str:
    """Writes weights, program, facts and the script that runs them, into a new folder; one to end in .zip is zipped.

    The program takes weights by name and views, uint8 [B, S, S, C], and gives logits [B, K] in float32. It is lowered
    for `PLATFORMS`, with products in full float32 on all of them.

    Returns:
      The comparison of what it computes with JAX' own logits.

    Raises:
      UserError: flatbuffers is missing, or the program computes something else.
    """
    flatbuffers = find_flatbuffers()
    name = path.name
    folder = path.with_name(f"{path.name}.folder") if name.endswith(".zip") else path
    folder.mkdir(parents=True)
    variables = nest({key: _plain(leaf) for key, leaf in flatten(program.variables).items()})
    facts = {**program.facts(), "platforms": list(PLATFORMS), "jax": jax.__version__, "input": _input(program)}
    provenance = request.provenance.noting(platforms=list(PLATFORMS), jax=jax.__version__)
    pretrained.save_native(
        folder / "model.safetensors",
        variables,
        model=program.name,
        pixels=program.pixels,
        classes=program.classes,
        epsilon=program.epsilon,
        calibration=program.calibration,
        notes={"provenance": provenance.to_text()},
    )
    (folder / "program.jax").write_bytes(_lower(program, pretrained.native_leaves(variables, program.name)))
    (folder / "bundle.json").write_text(json.dumps(facts, indent=1) + "\n")
    shutil.copyfile(_READER, folder / "predict.py")
    (folder / "__main__.py").write_text(_MAIN)
    words = _README.format(name=program.name, version=provenance.jaxtl, folder=name, jax=jax.__version__)
    (folder / "README.txt").write_text(words)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(flatbuffers, folder / "vendor" / "flatbuffers", ignore=ignored)
    write_notes(folder, Notes(provenance, program.reference()))
    runner = run_bundle(folder)
    expected = program.reference(request.views)
    comparison = require_same(
        runner.logits(request.views), expected.logits, program=runner.program, tolerance=expected.tolerance
    )
    if folder != path:
        _zip(folder, path)
    return f"{runner.program}, {request.origin}: {comparison}\nrun it: python {name} photo.jpg, or {name} --verify"


def find_flatbuffers() -> Path:
    """Returns the folder of the package by which jax writes and reads programs.

    Raises:
      UserError: it is not installed.
    """
    found = importlib.util.find_spec("flatbuffers")
    if found is None or not found.submodule_search_locations:
        raise UserError(f"a bundle needs flatbuffers, which is not installed: {NEEDS}")
    return Path(found.submodule_search_locations[0])


def _plain(leaf: Any) -> np.ndarray:
    """Returns an array in a dtype that NumPy has without help."""
    array = np.asarray(leaf)
    return array if array.dtype.kind in "fiub" else array.astype(np.float32)


def _input(program: Program) -> str:
    height, width, channels = program.shape
    return f"uint8 [B, {height}, {width}, {channels}], resized and cut as pixels says; normalised within"


def _lower(program: Program, leaves: dict[str, np.ndarray]) -> bytes:
    """Returns the program of (weights by name, views) -> logits, for any number of views."""

    def logits(weights: dict[str, jax.Array], views: jax.Array) -> jax.Array:
        return program.apply(nest(weights), views, with_pixels=True)

    (batch,) = jax.export.symbolic_shape("B")
    views = jax.ShapeDtypeStruct((batch, *program.shape), jnp.uint8)
    weights = {key: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for key, leaf in leaves.items()}
    return bytes(jax.export.export(jax.jit(logits), platforms=PLATFORMS)(weights, views).serialize())


def _zip(folder: Path, path: Path) -> None:
    # Weights do not shrink, and what is stored can be read in place.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                # The same bytes whenever it is written.
                info = zipfile.ZipInfo(str(file.relative_to(folder)), date_time=(1980, 1, 1, 0, 0, 0))
                info.external_attr = 0o644 << 16
                archive.writestr(info, file.read_bytes())
    shutil.rmtree(folder)


def run_bundle(path: Path) -> Runner:
    """Opens a bundle by the script that lies in it, for verification.

    Raises:
      UserError: it cannot be read.
    """
    # The script of this version, not the one in the bundle: what is verified need not be trusted.
    from jaxtl.deploy.export.bundle_reader import Bundle

    with _readable(path):
        bundle = Bundle(path)
        bundle.logits(np.zeros((0, 1, 1, 1), np.uint8))
    return Runner(f"jax {jax.__version__} on {jax.default_backend()}, the program of the bundle", bundle.logits)


def read_notes(path: Path) -> Notes:
    """Reads what a bundle says of itself.

    Raises:
      UserError: it is none.
    """
    if path.is_dir():
        return notes_lib.read_notes(path)
    with _readable(path), zipfile.ZipFile(path) as archive:
        text = archive.read(origins.NAME).decode()
        reference = read_reference(io.BytesIO(archive.read(verification.NAME)), path)
        return Notes(read_provenance(text, path), reference)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a bundle: {error}.") from None


FORMAT = Format(
    "bundle",
    "a folder or a .zip that runs with jax and numpy alone (extra bundle)",
    save_bundle,
    run=run_bundle,
    notes=read_notes,
    archive=".zip",
    compares=True,
    require=find_flatbuffers,
)
