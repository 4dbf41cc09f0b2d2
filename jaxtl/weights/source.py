"""Opens a weight source: what it is, what it says about itself, and its arrays, read when they are needed."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxtl.errors import UserError
from jaxtl.models import fields_of, find_family, spec
from jaxtl.models.naming import Naming, PixelDefaults
from jaxtl.preprocessing import HALF, IMAGENET, Pixels
from jaxtl.weights import rename
from jaxtl.weights.facts import Facts, facts_from_config
from jaxtl.weights.locate import Found, locate
from jaxtl.weights.read import Arrays, Loader, read
from jaxtl.weights.tree import flatten

NATIVE = Naming("jaxtl", "native", ())
"""Our own names: the paths of the variables themselves."""

UNSEEN = ("epsilon", "gelu", "heads", "stride_first", "momentum", "unbiased", "norm_groups", "pool")
"""Fields that change what a model computes, but not the shape of any array."""

_KNOWN_FILES = (
    (re.compile(r"deit3?_.*"), PixelDefaults(IMAGENET, "bicubic", 224 / 256)),
    (re.compile(r"vit_.*(augreg|in21k).*"), PixelDefaults(HALF, "bicubic", 0.9)),
)
"""Pixel facts of well-known files that do not carry them, by file name."""


@dataclass(frozen=True)
class Weights:
    """An opened weight source.

    Attributes:
      location: as it was given.
      files: the files that the arrays lie in.
      arrays: the arrays by the names of the source, read lazily.
      family: the model file that knows these names.
      naming: the convention of the names.
      model: the full name of the model these weights are of; empty if the source does not say.
      unseen: fields of the module that leave no trace in the shapes, as the source or its convention implies them.
      num_classes: the width of the head; 0 for weights without one.
      classes: the class names; None if unknown.
      pixels: how pixels must be prepared; None if unknown.
      pixels_from: where the pixel facts come from, for the passport.
      revision: the commit of a hub repository, or the step of a run.
      license: what the hub's model card says.
    """

    location: str
    files: tuple[Path, ...]
    arrays: Arrays
    family: ModuleType
    naming: Naming
    model: str = ""
    unseen: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int = 0
    classes: tuple[str, ...] | None = None
    pixels: Pixels | None = None
    pixels_from: str = ""
    revision: str = ""
    license: str = ""
    plan: rename.Plan = field(repr=False, default_factory=lambda: rename.Plan({}, (), ()))

    @property
    def epsilon(self) -> float | None:
        """The epsilon of the normalisations; None for the family's own."""
        return self.unseen.get("epsilon")

    @property
    def format(self) -> str:
        """The file format: "safetensors", "npz", "torch" or "hdf5"."""
        return self.arrays.format

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays in our names and layout."""
        return self.plan.shapes(self.arrays.shapes)

    @cached_property
    def sha256(self) -> dict[str, str]:
        """The sha256 of each file, by its name; all files are read for it.

        Raises:
          UserError: a file in the hub's cache is not the one that the hub sent.
        """
        digests = {}
        for path in self.files:
            with open(path, "rb") as file:
                digests[path.name] = digest = hashlib.file_digest(file, "sha256").hexdigest()
            # The cache of the hub names large files by their sha256, and links to them.
            stored = path.resolve()
            if stored.parent.name == "blobs" and len(stored.name) == len(digest) and stored.name != digest:
                raise UserError(f"{stored} is damaged: its sha256 is not its name. Delete it and run again.")
        return digests


def open_weights(location: str, *, model: str = "", cache_dir: str = "") -> Weights:
    """Opens a weight source; only headers are read.

    Args:
      location: hf:org/name[@revision], https://..., gs://..., a path to a file or folder, or run:WORKDIR.
      model: the name of the model to assume where the source does not say.
      cache_dir: the folder for downloads; empty for the cache of huggingface_hub.

    Raises:
      UserError: the source is missing, cannot be fetched, is broken, or holds no model that is known here.
    """
    if location.startswith("run:"):
        return _open_run(Path(location.removeprefix("run:")))
    found = locate(location, cache_dir=cache_dir)
    return _describe(location, found, read(found.path), model)


def _describe(location: str, found: Found, arrays: Arrays, model: str) -> Weights:
    if "jaxtl" in arrays.metadata:
        return from_native(location, arrays, json.loads(arrays.metadata["jaxtl"]), (found.path,))
    recognised = rename.recognise(arrays)
    if recognised is None:
        listed = ", ".join(list(arrays)[:4])
        raise UserError(f"{location}: these arrays belong to no model family that is known here: {listed}, ...")
    family, naming = recognised
    plan = rename.plan(arrays, naming)
    facts = facts_from_config(found.config, found.preprocessor)
    shapes = plan.shapes(arrays.shapes)
    pixels, pixels_from = _pixels(found.path, facts, naming, family)
    return Weights(
        location=location,
        files=_files(found.path),
        arrays=arrays,
        family=family,
        naming=naming,
        model=facts.model or _infer(family, shapes, naming) or model,
        unseen={**naming.fields, **{key: facts.fields[key] for key in UNSEEN if key in facts.fields}},
        num_classes=next((shape[-1] for path, shape in shapes.items() if path == "params/head/kernel" and shape), 0),
        classes=facts.classes,
        pixels=pixels,
        pixels_from=pixels_from,
        revision=found.revision,
        license=found.license,
        plan=plan,
    )


def _infer(family: ModuleType, shapes: Mapping[str, tuple[int, ...]], naming: Naming) -> str:
    """Names the model that arrays of these shapes are of; empty if they are incomplete or leave it open."""
    try:
        fields = family.infer(shapes)
    except (KeyError, ValueError, IndexError):
        return ""
    # The number of heads is the one size that shapes do not show.
    heads_known = "heads" in fields or "heads" not in next(iter(family.VARIANTS.values()))
    return spec(family.MODEL, {**fields, **naming.fields}) if heads_known else ""


def _files(path: Path) -> tuple[Path, ...]:
    if not path.name.endswith(".index.json"):
        return (path,)
    shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    return tuple(path.parent / name for name in shards)


def _pixels(path: Path, facts: Facts, naming: Naming, family: ModuleType) -> tuple[Pixels | None, str]:
    """Takes the first that speaks: what lies beside the file, the table of known files, the convention itself."""
    if facts.pixels is not None:
        return facts.pixels, facts.pixels_from
    known = next((known for pattern, known in _KNOWN_FILES if pattern.fullmatch(path.name)), None)
    origin = f"the file name {path.name}" if known else f"the {naming.name} convention"
    known = known or naming.pixels
    if known is None:
        return None, ""
    size: int = family.IMAGE_SIZE
    return Pixels(size, round(size / known.crop), *known.statistics, known.interpolation), origin


def from_native(
    location: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any], files: tuple[Path, ...]
) -> Weights:
    """Makes an opened source of arrays in our own names, with the facts that were kept beside them.

    Args:
      location: as it was given.
      arrays: by path, such as "params/block0/attn/qkv/kernel".
      facts: the keys "model", "epsilon", "num_classes", "classes" and "pixels", as `native_facts` wrote them.
      files: the files that the arrays lie in.
    """
    if not isinstance(arrays, Arrays):
        shapes = {path: tuple(array.shape) for path, array in arrays.items()}
        loaders: dict[str, Loader] = {path: partial(np.asarray, array) for path, array in arrays.items()}
        arrays = Arrays("orbax", shapes, loaders)
    family = find_family(facts["model"])
    parts: dict[str, tuple[rename.Part, ...]] = {path: (rename.Part(path, rename.SAME),) for path in arrays}
    return Weights(
        location=location,
        files=files,
        arrays=arrays,
        family=family,
        naming=NATIVE,
        model=facts["model"],
        unseen=_native_unseen(facts),
        num_classes=int(facts["num_classes"]),
        classes=tuple(facts["classes"]) if facts.get("classes") else None,
        pixels=Pixels.from_json(facts["pixels"]) if facts.get("pixels") else None,
        pixels_from="the file itself",
        plan=rename.Plan(parts, (), ()),
    )


def _native_unseen(facts: Mapping[str, Any]) -> dict[str, Any]:
    fields = fields_of(facts["model"])
    unseen = {key: fields[key] for key in UNSEEN if key in fields}
    return unseen if facts.get("epsilon") is None else {**unseen, "epsilon": facts["epsilon"]}


def _open_run(workdir: Path) -> Weights:
    """Opens the best checkpoint of a run."""
    path = workdir / "model.json"
    try:
        facts = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"run:{workdir} is no run: it has no model.json; give the workdir of a training run.") from None
    # Imported here, since Orbax takes a second and only runs need it.
    from jaxtl.weights.checkpoint import read_best

    step, variables = read_best(workdir)
    opened = from_native(f"run:{workdir}", flatten(variables), facts, ())
    return dataclasses.replace(opened, revision=f"step {step}")
