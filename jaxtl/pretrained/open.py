"""Opens a weight source: what it is, what it says about itself, and its arrays, read when they are needed."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtl.compress.quantization import KERNELS, unpacked_kernel
from jaxtl.errors import UserError
from jaxtl.models import complete_fields, families, find_family, spec
from jaxtl.models.base import Family
from jaxtl.models.head import HEAD_FIELDS
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.preprocessing import HALF, IMAGENET, PixelDefaults, Pixels
from jaxtl.pretrained import keras_model, layouts, rename
from jaxtl.pretrained.architecture import UnknownArchitecture, fields_of_name, keras_name, telltale, unknown_name
from jaxtl.pretrained.formats.arrays import Arrays, Loader
from jaxtl.pretrained.formats.read import read
from jaxtl.pretrained.hub_config import Facts, facts_from_config
from jaxtl.pretrained.keras_head import find_head
from jaxtl.pretrained.locate import Found, locate
from jaxtl.trees import flatten

NATIVE = KeyMapping("jaxtl", "native", ())
"""Native names: the paths of the variables themselves."""

_KNOWN_FILES = (
    (re.compile(r"deit3?_.*"), PixelDefaults(IMAGENET, "bicubic", 224 / 256)),
    (re.compile(r"vit_.*(augreg|in21k).*"), PixelDefaults(HALF, "bicubic", 0.9)),
    (re.compile(r"tf_(efficientnetv2_[sml]|efficientnet_b[0-9]_ap).*"), PixelDefaults(HALF, "bicubic", 0.9)),
    (re.compile(r"tf_mobilenetv3_.*"), PixelDefaults(HALF, "bilinear", 0.875)),
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
      key_mapping: the convention of the names.
      model: the full name of the model these weights are of; empty if the source does not say.
      asked: the model name that the user gave; empty if the source decides.
      unseen: fields of the module that leave no trace in the shapes, as the source or its convention implies them; of
        native weights also those that say which head they have.
      notes: what else the load report says about them.
      num_classes: the width of the head; 0 for weights without one.
      classes: the class names; None if unknown.
      pixels: how pixels must be prepared; None if unknown.
      pixels_from: where the pixel facts come from, for the load report.
      revision: the commit of a hub repository, or the step of a run.
      license: what the hub's model card says.
    """

    location: str
    files: tuple[Path, ...]
    arrays: Arrays
    family: Family
    key_mapping: KeyMapping
    model: str = ""
    asked: str = ""
    unseen: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
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
    def head_fields(self) -> dict[str, Any]:
        """The fields that say which head they have: its family's own, unless native weights say otherwise."""
        return {"head_hidden": (), "head_pool": "", "single_logit": False} | {
            key: value for key, value in self.unseen.items() if key in HEAD_FIELDS
        }

    @property
    def format(self) -> str:
        """The file format: "safetensors", "npz", "torch" or "hdf5"."""
        return self.arrays.format

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays in native names and layout."""
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
      model: the name of the model that the user wants: it holds where the source does not say which model it holds,
        and opens a source that says it is of one that is not supported.
      cache_dir: the folder for downloads; empty for the cache of huggingface_hub.

    Raises:
      UnknownArchitecture: it names an architecture that is not supported, and no model is given.
      UserError: the source is missing, cannot be fetched, is broken, or holds no model that is known here.
    """
    if location.startswith("run:"):
        opened = _open_run(Path(location.removeprefix("run:")))
    else:
        found = locate(location, cache_dir=cache_dir)
        opened = _describe(location, found, read(found.path), model)
    return dataclasses.replace(opened, asked=model)


def _describe(location: str, found: Found, arrays: Arrays, model: str) -> Weights:
    if "jaxtl" in arrays.metadata:
        return from_native(location, arrays, json.loads(arrays.metadata["jaxtl"]), (found.path,))
    facts = facts_from_config(found.config, found.preprocessor)
    strange, recognised = telltale(arrays.shapes), rename.recognise(arrays)
    if strange or recognised is None:
        if strange or facts.unknown:
            raise _unsupported(location, facts.unknown or f"a {strange}")
        if arrays.format == "hdf5":
            raise keras_model.refusal(location, arrays, families())
        listed = ", ".join(list(arrays)[:4])
        raise UserError(f"{location}: these arrays belong to no model family that is known here: {listed}, ...")
    family, key_mapping = recognised
    is_keras = key_mapping.layout == "keras"
    if key_mapping.refine is not None:
        key_mapping = key_mapping.refine(rename.plan(arrays, key_mapping).shapes(arrays.shapes))
    # What the model itself does to its pixels counts more than what its convention says.
    inside = obstacle = ""
    if is_keras:
        key_mapping, inside, obstacle = keras_model.prepare(arrays, key_mapping)
    plan = rename.plan(arrays, key_mapping)
    shapes = plan.shapes(arrays.shapes)
    size = keras_model.input_size(arrays) if is_keras else 0
    named = {} if facts.architecture else fields_of_name(family, found.path.stem)
    implied = {**key_mapping.fields, **named, **facts.fields, **({"image_size": size} if size else {})}
    inferred = facts.model or _infer(family, shapes, implied)
    size = size or (complete_fields(inferred).get("image_size", 0) if inferred else 0) or family.IMAGE_SIZE
    pixels, pixels_from = _pixels(found.path, facts, key_mapping, size)
    unknown = facts.unknown or ("" if facts.architecture else unknown_name(_name(found, arrays)))
    if unknown and not model:
        fits = inferred and not plan.unknown
        raise UnknownArchitecture(unknown, inferred) if fits else _unsupported(location, unknown)
    notes = [f"{unknown} is not supported: loaded as {model}, as asked"] if unknown else []
    if is_keras:
        if not inferred or keras_model.is_strange(arrays, plan):
            raise keras_model.refusal(location, arrays, families())
        keras_model.check(location, arrays, plan, obstacle)
        if plan.unknown and family.MODEL.head_path not in plan.parts:
            head = find_head(arrays, key_mapping, plan, inferred)
            unused = (*plan.unused, *(() if head.parts else plan.unknown))
            plan = rename.Plan({**plan.parts, **head.parts}, unused, ())
            shapes, notes = plan.shapes(arrays.shapes), [*notes, head.note]
            inferred = spec(family.MODEL, {**complete_fields(inferred), **head.fields})
    implied |= {key: value for key in HEAD_FIELDS if inferred and (value := complete_fields(inferred)[key])}
    return Weights(
        location=location,
        files=_files(found.path),
        arrays=arrays,
        family=family,
        key_mapping=key_mapping,
        model=inferred or model,
        unseen={key: implied[key] for key in (*family.MODEL.unseen, *HEAD_FIELDS) if key in implied},
        notes=tuple(notes),
        num_classes=2 if implied.get("single_logit") else (shapes.get(family.MODEL.head_path) or (0,))[-1],
        classes=facts.classes,
        pixels=pixels,
        pixels_from=inside or pixels_from,
        revision=found.revision,
        license=found.license,
        plan=plan,
    )


def _unsupported(location: str, kind: str) -> UserError:
    known = ", ".join(family.__name__.rpartition(".")[2] for family in families())
    return UserError(f"{location}: these are weights of {kind}, which is not supported; the families are {known}.")


def _name(found: Found, arrays: Arrays) -> str:
    """Gives what the weights are called: by Keras within the file, else by the file's name."""
    return keras_name(arrays.metadata) or found.path.name


def _infer(family: Family, shapes: Mapping[str, tuple[int, ...]], implied: Mapping[str, Any]) -> str:
    """Names the model that arrays of these shapes are of; empty if they are incomplete or leave it open."""
    try:
        fields = family.infer(shapes)
    except (KeyError, ValueError, IndexError):
        return ""
    fields = {**fields, **implied}
    # The number of heads is the one size that shapes do not show.
    heads_known = "heads" in fields or "heads" not in next(iter(family.VARIANTS.values()))
    return spec(family.MODEL, fields) if heads_known else ""


def _files(path: Path) -> tuple[Path, ...]:
    if not path.name.endswith(".index.json"):
        return (path,)
    shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    return tuple(path.parent / name for name in shards)


def _pixels(path: Path, facts: Facts, key_mapping: KeyMapping, size: int) -> tuple[Pixels | None, str]:
    """Takes the first that speaks: what lies beside the file, the table of known files, the convention itself."""
    if facts.pixels is not None:
        return facts.pixels, facts.pixels_from
    known = next((known for pattern, known in _KNOWN_FILES if pattern.fullmatch(path.name)), None)
    origin = f"the file name {path.name}" if known else f"the {key_mapping.name} convention"
    known = known or key_mapping.pixels
    if known is None:
        return None, ""
    return Pixels(size, round(size / known.crop), *known.statistics, known.interpolation), origin


def from_native(
    location: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any], files: tuple[Path, ...]
) -> Weights:
    """Makes an opened source of arrays in native names, with the facts that were kept beside them.

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
    arrays, family = _unpacked(arrays), find_family(facts["model"])
    parts: dict[str, tuple[rename.Part, ...]] = {path: (rename.Part(path, layouts.SAME),) for path in arrays}
    return Weights(
        location=location,
        files=files,
        arrays=arrays,
        family=family,
        key_mapping=NATIVE,
        model=facts["model"],
        unseen=_native_unseen(facts),
        num_classes=int(facts["num_classes"]),
        classes=tuple(facts["classes"]) if facts.get("classes") else None,
        pixels=Pixels.from_json(facts["pixels"]) if facts.get("pixels") else None,
        pixels_from="the file itself",
        plan=rename.Plan(parts, (), ()),
    )


def _unpacked(arrays: Arrays) -> Arrays:
    """Gives arrays with float kernels in place of quantized ones, which are unpacked as they are read."""
    shapes, loaders = dict(arrays.shapes), dict(arrays.loaders)
    for path in [path for path in shapes if path.startswith(f"{KERNELS}/") and path.endswith("/values")]:
        scale = path.removesuffix("values") + "scale"
        kernel = f"params/{path.removeprefix(f'{KERNELS}/').removesuffix('/values')}"
        shapes[kernel] = (*shapes.pop(path)[:-1], shapes.pop(scale)[-1])
        loaders[kernel] = partial(_kernel, loaders.pop(path), loaders.pop(scale))
    return dataclasses.replace(arrays, shapes=shapes, loaders=loaders)


def _kernel(values: Loader, scale: Loader) -> np.ndarray:
    return np.asarray(unpacked_kernel(jnp.asarray(values()), jnp.asarray(scale())))


def _native_unseen(facts: Mapping[str, Any]) -> dict[str, Any]:
    fields = complete_fields(facts["model"])
    unseen = {key: fields[key] for key in (*find_family(facts["model"]).MODEL.unseen, *HEAD_FIELDS)}
    return unseen if facts.get("epsilon") is None else {**unseen, "epsilon": facts["epsilon"]}


def _open_run(workdir: Path) -> Weights:
    """Opens the best checkpoint of a run."""
    path = workdir / "model.json"
    try:
        facts = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"run:{workdir} is no run: it has no model.json; give the workdir of a training run.") from None
    if "members" in facts:
        raise UserError(
            f"run:{workdir} is an ensemble, which has no weights of one network: give one of {workdir}/members."
        )
    # Imported here, since Orbax takes a second and only runs need it.
    from jaxtl.checkpoints.manager import read_best

    step, variables = read_best(workdir)
    opened = from_native(f"run:{workdir}", flatten(variables), facts, ())
    return dataclasses.replace(opened, revision=f"step {step}")
