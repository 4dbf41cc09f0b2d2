"""The models that can be fine-tuned; each family is one file, and adding one touches nothing else.

Such a file is a `jaxtl.models.base.Family`: it names its `MODEL`, which takes images to logits and gives its groups;
its `VARIANTS`, the fields of the module by name; its native `IMAGE_SIZE`; its `KEY_MAPPINGS`, the tables of what others
call its arrays; its `ARCHITECTURES`, what others call models that compute the same; and `infer(shapes)`, which reads
fields off the shapes of its leaves. Where transformers or timm has the family too, `from_config`, `to_config`,
`from_timm` and `to_timm` read and write what their config.json says.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from itertools import takewhile
from typing import Any, cast

import flax.linen as nn

from jaxtl.compress.quantization import FORMS
from jaxtl.errors import UserError, nearest
from jaxtl.models.base import Family, GroupedModel, ModelOptions
from jaxtl.models.batchnorm_model import ordered_fields
from jaxtl.models.head import check_fields

DEFAULT_OPTIONS = ModelOptions()


def families() -> tuple[Family, ...]:
    """Gives the family modules: every file in the path of this package that names its `MODEL`."""
    return _families(tuple(__path__))


@cache
def _families(folders: tuple[str, ...]) -> tuple[Family, ...]:
    found = (importlib.import_module(f"{__name__}.{name}") for name in _files(folders))
    return tuple(cast(Family, module) for module in found if hasattr(module, "MODEL"))


@cache
def _files(folders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(info.name for info in pkgutil.iter_modules(folders))


def names() -> tuple[str, ...]:
    """Gives the names of all variants."""
    return tuple(name for family in families() for name in family.VARIANTS)


def build(
    name: str,
    *,
    num_classes: int,
    image_size: int = 0,
    options: ModelOptions = DEFAULT_OPTIONS,
    epsilon: float | None = None,
) -> GroupedModel:
    """Builds the model of that name; its parameters come from `init` or from a weight file.

    Args:
      name: a variant such as "vit_s16", or a variant with fields replaced, such as "vit_s16:patch=8,registers=4".
      num_classes: the width of the logits; 0 for pooled features instead of a head.
      image_size: the side of the square images in pixels; 0 for the variant's own.
      options: how it computes, and what it drops in training.
      epsilon: of the normalisations; None for the one that the name says.

    Raises:
      UserError: the name, or a field in it, is unknown, the fields do not go together, the model lacks an option, or
        the images are too small for it.
    """
    family = find_family(name)
    fields = fields_of(name)
    if image_size:
        fields["image_size"] = image_size
    if epsilon is not None:
        fields["epsilon"] = epsilon
    for option in dataclasses.fields(ModelOptions):
        value, usual = getattr(options, option.name), option.default
        if option.name == "dtype" or value != usual:
            if option.name not in _field_names(family.MODEL):
                raise UserError(f"model {name!r} has no {option.name}; leave it at {usual}.", arguments=[option.name])
            fields[option.name] = value
    try:
        model: GroupedModel = family.MODEL(num_classes=num_classes, **fields)
    except ValueError as error:
        raise UserError(f"model {name!r}: {error}.") from None
    if model.quantized not in ("", *FORMS):
        raise UserError(f"model {name!r}: quantized {model.quantized!r} is none of {', '.join(FORMS)}.")
    check_fields(model.head_hidden, model.head_pool, model.single_logit, num_classes)
    check_size(name, model)
    return model


def check_size(name: str, model: GroupedModel, *, training: bool = False) -> None:
    """Sees that images of the model's size leave a map before the pooling, and before auxiliary heads in training.

    Raises:
      UserError: they are smaller; it names the least size.
    """
    size: int = getattr(model, "image_size", 0) or find_family(name).IMAGE_SIZE
    least = model.min_training_size if training else model.min_size
    if size >= least:
        return
    base = name.partition(":")[0]
    problem = f"image_size {size} is below the least that {base} takes{' in training' if training else ''}, {least}"
    if training and size >= model.min_size and model.auxiliary_field:
        problem += f"; without its auxiliary heads, {base}:{model.auxiliary_field}=false, it takes {model.min_size}"
    raise UserError(f"{problem}.", arguments=["image_size"])


def with_fields(name: str, **changed: Any) -> str:
    """Writes fields into a model name; those that the variant has already are left out.

    >>> with_fields("vgg16:width=32", head_pool="flatten", head_hidden=(256, 64))
    'vgg16:width=32,head_pool=flatten,head_hidden=256-64'
    >>> with_fields("vgg16:head_pool=flatten", head_pool="")
    'vgg16'
    """
    base, _, text = name.partition(":")
    written = dict(item.split("=", 1) for item in filter(None, text.split(",")))
    alone = complete_fields(base)
    for key, value in changed.items():
        written.pop(key, None)
        if alone[key] != value:
            written[key] = format_value(value)
    return base + (":" if written else "") + ",".join(f"{key}={value}" for key, value in written.items())


def published_weights(name: str) -> str:
    """Gives where published weights of a model lie, such as "hf:timm/resnet50.tv_in1k" for "resnet50".

    Raises:
      UserError: the name is unknown, or no published weights of it are known.
    """
    known = {variant: place for family in families() for variant, place in getattr(family, "PUBLISHED", {}).items()}
    variant = name.partition(":")[0]
    find_family(name)
    if variant not in known:
        raise UserError(
            f"no published weights of {variant} are known; of these they are: {', '.join(known)}. "
            "Give the place of a weight file.",
            arguments=["weights"],
        )
    return known[variant]


def native_size(name: str) -> int:
    """Gives the side of the square images a variant is made for, in pixels."""
    return getattr(build(name, num_classes=0), "image_size", 0) or find_family(name).IMAGE_SIZE


def unrolled(module: nn.Module) -> nn.Module:
    """Gives the same model without loops, computing nothing twice, without a form of attention: it can be counted."""
    fields: Any = {key: False for key in ("remat", "scan") if getattr(module, key, False)}
    if hasattr(module, "attention"):
        fields["attention"] = "auto"
    return module.clone(**fields) if fields else module


def spec(model: type[nn.Module], fields: Mapping[str, Any]) -> str:
    """Writes fields of a module as a name for `build`: the nearest variant, and what differs from it.

    >>> from jaxtl.models.vit import VARIANTS, ViT
    >>> spec(ViT, {**VARIANTS["vit_s16"], "patch": 8})
    'vit_s16:patch=8'
    """
    defaults = _defaults(model)
    wanted = {**defaults, **fields}
    candidates: list[tuple[str, dict[str, Any]]] = []
    for family in families():
        for name, variant in family.VARIANTS.items() if family.MODEL is model else ():
            own = {**defaults, **variant}
            # A size that nothing says is the variant's own.
            said = {key: value for key, value in wanted.items() if key != "image_size" or key in fields}
            candidates.append((name, {key: value for key, value in said.items() if own[key] != value}))
    name, others = min(candidates, key=lambda candidate: len(candidate[1]))
    return name + (":" + ",".join(f"{key}={format_value(value)}" for key, value in others.items()) if others else "")


def format_value(value: Any) -> str:
    """Writes the value of a field as it stands in a model name."""
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def find_family(name: str) -> Family:
    """Gives the family file of a model name, such as "vit_s16:patch=8".

    Raises:
      UserError: no family has that variant.
    """
    base = name.partition(":")[0]
    # The file whose name is the most alike first: to import all of them takes a tenth of a second.
    for file in sorted(_files(tuple(__path__)), key=lambda file: -_in_common(file, base)):
        module = importlib.import_module(f"{__name__}.{file}")
        if base in getattr(module, "VARIANTS", ()) and hasattr(module, "MODEL"):
            return cast(Family, module)
    near = nearest(base, names())
    if near:
        raise UserError(f"unknown model {base!r}; did you mean {near!r}? There are {len(names()) - 1} others.")
    raise UserError(f"unknown model {base!r}. The models are {', '.join(names())}.")


def _in_common(one: str, other: str) -> int:
    """Gives the number of letters with which both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def fields_of(name: str) -> dict[str, Any]:
    """Gives the fields that a model name fixes, those written in it last.

    Raises:
      UserError: the name, or a field in it, is unknown.
    """
    family = find_family(name)
    base, _, replaced = name.partition(":")
    return {**family.VARIANTS[base], **_parse_fields(name, replaced, family.MODEL)}


def count_classes(name: str, leaves: Mapping[str, Any]) -> int:
    """Gives the number of classes of a model's leaves, by path; 0 where there is no head."""
    head = leaves.get(find_family(name).MODEL.head_path)
    if head is None:
        return 0
    return 2 if complete_fields(name)["single_logit"] else int(head.shape[-1])


def complete_fields(name: str) -> dict[str, Any]:
    """Gives the fields of the module that a model name stands for, with the module's defaults.

    Raises:
      UserError: the name, or a field in it, is unknown.
    """
    return {**_defaults(find_family(name).MODEL), **fields_of(name)}


def _defaults(model: type) -> dict[str, Any]:
    fields = ordered_fields(model)
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def _field_names(model: type) -> set[str]:
    return {field.name for field in dataclasses.fields(model)} - {"parent", "name"}


def _parse_fields(name: str, text: str, model: type) -> dict[str, Any]:
    """Reads "patch=8,registers=4" into values of the types that the model's fields have."""
    types = {field.name: field.type for field in dataclasses.fields(model)}
    allowed = _field_names(model) - {"num_classes", "dtype", "axis_name", "remat", "scan", "attention"}
    fields: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"model {name!r}: {item!r} is no field with a value, such as patch=8.")
        if key not in allowed:
            raise UserError(f"model {name!r}: unknown field {key!r}; the fields are {', '.join(sorted(allowed))}.")
        try:
            fields[key] = _parse_value(value, types[key])
        except (KeyError, ValueError):
            raise UserError(f"model {name!r}: {value!r} is no value for the field {key!r}.") from None
    return fields


def _parse_value(text: str, kind: Any) -> Any:
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    if kind in (int, float, str):
        return kind(text)
    return tuple(int(part) for part in text.split("-"))
