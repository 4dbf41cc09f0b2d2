"""Every key with its default, reading of config files and flags, and the check that names all problems at once."""

import ast
import difflib
import importlib.util
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl import models, parallel
from jaxtl.errors import UserError
from jaxtl.train import optimizer, schedules


def default() -> ConfigDict:
    """Returns the config that every file in configs/ starts from."""
    c = ConfigDict(type_safe=False)

    c.model = ConfigDict(type_safe=False)
    c.model.name = "vit_ti16"  # See jaxtl.models.names().
    c.model.weights = ""  # "" (from scratch) | hf:org/name[@revision] | https://... | gs://... | a path | run:WORKDIR
    c.model.head = "auto"  # "auto": kept where the classes are the same, else new | "keep" | "new"
    c.model.image_size = 0  # Side of the square the model sees, in pixels; 0: what the weights were trained at.
    # Pixel facts belong to the weights and come with them; these replace single ones. (): from the weights.
    c.model.mean = ()
    c.model.std = ()
    c.model.interpolation = ""
    c.model.resize = 0  # Shorter side before the centre crop, in pixels.
    c.model.dropout = 0.0
    c.model.drop_path = 0.0  # Stochastic depth of the last block, growing linearly from 0 at the first.

    c.data = ConfigDict(type_safe=False)
    c.data.source = ""  # tfds:NAME | folder:DIR | csv:FILE | npz:FILE
    c.data.data_dir = ""  # Where prepared TFDS sets lie; "": TFDS' own default.
    c.data.train = ""  # Split language of TFDS, "train[:90%]"; "": the source's own train split.
    c.data.val = ""  # "": the source's own validation split, else 10 % of train.
    c.data.test = ""  # "": the source's own test split.
    c.data.workers = 0  # Decoding threads; 0: one a core.
    c.data.cache_gib = 2.0  # Decoded images are kept in memory up to this size, so that later epochs decode nothing.

    c.augment = ConfigDict(type_safe=False)
    c.augment.crop = "random_resized"  # "random_resized" | "resize_crop" | "pad_crop" | "none"
    c.augment.scale = (0.08, 1.0)  # Area of a random resized crop, as a share of the image.
    c.augment.ratio = (3 / 4, 4 / 3)  # Its width by its height.
    c.augment.resize = 0  # Shorter side before the random crop of "resize_crop", in pixels; 0: 8/7 of the crop.
    c.augment.pad = 4  # Pixels around the image before "pad_crop".
    c.augment.flip = 0.5  # Probability of a mirrored image.
    c.augment.color_jitter = 0.0  # Brightness, contrast and saturation change by a factor in 1 +- this.

    c.finetune = ConfigDict(type_safe=False, convert_dict=False)  # The keys of a dict may hold dots.
    c.finetune.unfreeze = "all"  # "all" | "head" | k (the head and the last k groups) | names or regexes, with commas
    c.finetune.layer_decay = 1.0  # Factor on the rate per group, counted down from the head.
    c.finetune.lr_multipliers = {}  # {regex: factor} on the rates of matching groups or parameters.
    # What the frozen groups at the input make of an image is computed once: "auto" | "on" | "off". "auto" does so where
    # it changes nothing but the time: without augmentation, or with cache_views, and where the results find room.
    c.finetune.cache_features = "auto"
    c.finetune.cache_views = 1  # 1: each image as evaluation sees it; above: so many views of it, drawn as augment says.
    c.finetune.cache_dir = ""  # Where features lie on disk, for other runs too; "": in memory, if they fit, or WORKDIR.

    c.optimizer = ConfigDict(type_safe=False)
    c.optimizer.name = "adamw"  # "adamw" | "adam" | "sgd" | "rmsprop"
    c.optimizer.learning_rate = 1e-3  # The head's highest rate.
    c.optimizer.weight_decay = 0.0  # Decoupled; not on biases, norms and tokens.
    c.optimizer.momentum = 0.9  # Of sgd and rmsprop.
    c.optimizer.b1 = 0.9
    c.optimizer.b2 = 0.999
    c.optimizer.eps = 1e-8
    c.optimizer.clip_norm = 0.0  # Largest global norm of the trainable gradients; 0: no clipping.
    c.optimizer.schedule = "cosine"  # "cosine" | "linear" | "constant" | "step"
    c.optimizer.warmup_steps = 0
    c.optimizer.end_factor = 0.0  # Last rate by highest rate, of cosine and linear.
    c.optimizer.boundaries = (0.5, 0.75)  # Of "step": shares of the run after which the rate is multiplied ...
    c.optimizer.factor = 0.1  # ... by this.

    c.train = ConfigDict(type_safe=False)
    c.train.steps = 0  # Either steps ...
    c.train.epochs = 0.0  # ... or epochs.
    c.train.batch_size = 32  # Of all devices and hosts together.
    c.train.accumulate = 1  # The batch is computed in this many parts, one after another, to save memory.
    c.train.seed = 0
    c.train.precision = "float32"  # "float32" | "bfloat16": what is computed in; parameters are float32.
    c.train.parallel = "jit"  # "jit" | "pmap"
    c.train.label_smoothing = 0.0
    c.train.log_every = 10  # Steps.
    c.train.eval_every = 0  # Steps; 0: at the end of each epoch.
    c.train.monitor = "accuracy"  # The validation figure that decides which checkpoint is best.
    c.train.patience = 0  # Evaluations without a better one after which to stop; 0: never.

    c.eval = ConfigDict(type_safe=False)
    c.eval.split = ""  # What the eval command measures; "": the test split, or a source without splits as a whole.
    c.eval.batch_size = 0  # 0: train.batch_size.
    return c


def load(path: str, overrides: Mapping[str, str]) -> ConfigDict:
    """Returns the config of a file, "FILE" or "FILE:variant", with the flags' values put in.

    Args:
      path: a Python file with `get_config(variant: str = "")`.
      overrides: "train.epochs" -> "5", as written on the command line.

    Raises:
      UserError: the file or the variant is missing, or there are problems with keys or values: all in one message.
    """
    config = _read(path)
    problems = _unknown_keys(config)
    for key, text in overrides.items():
        known = dict(_leaves(default()))
        if key not in known:
            problems.append(_unknown(key))
            continue
        try:
            _set(config, key, _parse(text, known[key], key))
        except ValueError as error:
            problems.append(str(error))
    if not problems:
        problems = validate(config)
    if problems:
        raise UserError("\n".join(problems))
    return config


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
    """Returns a config from the values of a config.json; keys that it lacks keep their default."""
    config = default()
    known = dict(_leaves(config))
    for key, value in _leaves(values):
        if key in known:
            _set(config, key, tuple(value) if isinstance(value, list) else value)
    return config


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Returns plain nested dicts, ready for JSON."""
    return {
        key: to_dict(value) if isinstance(value, ConfigDict) else list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lists the keys in which two configs differ, as "train.seed: 0 -> 1"."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def validate(config: ConfigDict) -> list[str]:
    """Returns one line for each problem that can be seen without opening data or weights."""
    problems = _unknown_keys(config) or _wrong_types(config)
    if problems:
        return problems
    c = config

    def check(ok: bool, key: str, allowed: str) -> None:
        if not ok:
            problems.append(f"{key} is {dict(_leaves(c))[key]!r}, but it must be {allowed}.")

    def choice(key: str, names: tuple[str, ...]) -> None:
        check(dict(_leaves(c))[key] in names, key, f"one of: {', '.join(repr(name) for name in names)}")

    try:
        if c.model.name != "auto":
            models.build(c.model.name, num_classes=1)
    except UserError as error:
        problems.append(f"model.name: {error}")
    choice("model.head", ("auto", "keep", "new"))
    choice("model.interpolation", ("", "nearest", "bilinear", "bicubic", "lanczos"))
    for key in ("mean", "std"):
        check(len(c.model[key]) in (0, 1, 3, 4), f"model.{key}", "one number a channel, for images in [0, 1]")
    check(all(value > 0 for value in c.model.std), "model.std", "positive")
    for key in ("model.image_size", "model.resize", "data.workers", "data.cache_gib", "augment.resize", "augment.pad"):
        check(dict(_leaves(c))[key] >= 0, key, "0 or more")
    for key in ("model.dropout", "model.drop_path", "train.label_smoothing"):
        check(0 <= dict(_leaves(c))[key] < 1, key, "at least 0 and below 1")
    check(
        c.data.source.split(":")[0] in ("tfds", "folder", "csv", "npz") and ":" in c.data.source,
        "data.source",
        "one of: tfds:NAME, folder:DIR, csv:FILE, npz:FILE",
    )
    problems += _training_problems(c, check, choice)
    return problems


def _training_problems(c: ConfigDict, check, choice) -> list[str]:
    choice("augment.crop", ("random_resized", "resize_crop", "pad_crop", "none"))
    for key in ("scale", "ratio"):
        low_high = tuple(c.augment[key])
        check(len(low_high) == 2 and 0 < low_high[0] <= low_high[1], f"augment.{key}", "(low, high), both positive")
    check(0 <= c.augment.flip <= 1, "augment.flip", "a probability")
    check(0 <= c.augment.color_jitter <= 1, "augment.color_jitter", "between 0 and 1")
    check(0 < c.finetune.layer_decay <= 1, "finetune.layer_decay", "above 0 and at most 1")
    check(
        all(_is_number(value) and value >= 0 for value in c.finetune.lr_multipliers.values()),
        "finetune.lr_multipliers",
        "{regex: factor} with factors of 0 or more",
    )
    choice("finetune.cache_features", ("auto", "on", "off"))
    check(c.finetune.cache_views > 0, "finetune.cache_views", "1 or more")
    choice("optimizer.name", optimizer.NAMES)
    choice("optimizer.schedule", schedules.NAMES)
    check(c.optimizer.learning_rate > 0, "optimizer.learning_rate", "positive")
    for key in ("weight_decay", "clip_norm", "warmup_steps", "end_factor", "factor"):
        check(c.optimizer[key] >= 0, f"optimizer.{key}", "0 or more")
    for key in ("momentum", "b1", "b2"):
        check(0 <= c.optimizer[key] < 1, f"optimizer.{key}", "at least 0 and below 1")
    check(c.optimizer.eps > 0, "optimizer.eps", "positive")
    for key in ("steps", "epochs", "eval_every", "patience", "seed"):
        check(c.train[key] >= 0, f"train.{key}", "0 or more")
    for key in ("batch_size", "accumulate", "log_every"):
        check(c.train[key] > 0, f"train.{key}", "1 or more")
    check(c.eval.batch_size >= 0, "eval.batch_size", "0 or more")
    choice("train.precision", ("float32", "bfloat16"))
    choice("train.parallel", parallel.NAMES)
    choice("train.monitor", ("accuracy", "top5", "loss", "precision", "recall", "f1"))
    problems = []
    if c.optimizer.name == "adam" and c.optimizer.weight_decay > 0:
        problems.append('optimizer.name is "adam", which has no weight decay: use "adamw", or weight_decay 0.')
    if (c.train.steps > 0) == (c.train.epochs > 0):
        problems.append(
            f"train.steps is {c.train.steps} and train.epochs {c.train.epochs}: give one of them, and 0 for the other."
        )
    if c.train.steps > 0 and c.optimizer.warmup_steps >= c.train.steps:
        problems.append(
            f"optimizer.warmup_steps is {c.optimizer.warmup_steps}, but the run has {c.train.steps} steps: give fewer."
        )
    if c.train.accumulate > 0 and c.train.batch_size % c.train.accumulate:
        problems.append(
            f"train.batch_size {c.train.batch_size} is no multiple of train.accumulate {c.train.accumulate}."
        )
    return problems


def _read(path: str) -> ConfigDict:
    file, _, variant = path.partition(":")
    if not Path(file).is_file():
        raise UserError(f"--config={path}: there is no file {file}. Those that come with jaxtl are in configs/.")
    spec = importlib.util.spec_from_file_location("jaxtl_config", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path}: {file} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f'--config={path}: {file} must define get_config(variant=""), as the files in configs/ do.')
    return module.get_config(variant)


def choose_variant(variant: str, variants: Mapping[str, Any]) -> Any:
    """Returns the entry of that variant; for config files.

    Raises:
      UserError: there is none of that name.
    """
    if variant not in variants:
        names = ", ".join(repr(name) for name in variants)
        raise UserError(f"the config has no variant {variant!r}; it has: {names}.")
    return variants[variant]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        # {regex: factor} is one value, however many entries it has.
        if isinstance(value, (ConfigDict, dict)) and f"{prefix}{key}" != "finetune.lr_multipliers":
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", dict(value) if isinstance(value, (ConfigDict, dict)) else value


def _set(config: ConfigDict, key: str, value: Any) -> None:
    section, name = key.split(".")
    config[section][name] = value


def _unknown(key: str) -> str:
    known = [name for name, _ in _leaves(default())]
    last = key.split(".")[-1]
    # A right name in a wrong section, or its initials (lr), are nearer than any spelling.
    same = [name for name in known if name.split(".")[-1] == last]
    short = [name for name in known if "".join(word[0] for word in name.split(".")[-1].split("_")) == last]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown key config.{key}; did you mean config.{(same or short or close)[0]}?"


def _unknown_keys(config: ConfigDict) -> list[str]:
    known = dict(_leaves(default()))
    return [_unknown(key) for key, _ in _leaves(config) if key not in known]


def _wrong_types(config: ConfigDict) -> list[str]:
    problems = []
    given = dict(_leaves(config))
    for key, expected in _leaves(default()):
        if key not in given:
            problems.append(f"{key} is missing: start from jaxtl.config.default().")
        elif not _fits(given[key], expected, key):
            kind = type(expected).__name__
            problems.append(f"{key} is {given[key]!r}, but it must be of the kind {kind}, like {expected!r}.")
    return problems


def _fits(value: Any, expected: Any, key: str) -> bool:
    if key == "finetune.unfreeze" and isinstance(value, int):
        return True
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(expected, bool)
    if isinstance(expected, float):
        return _is_number(value)
    if isinstance(expected, tuple):
        return isinstance(value, (tuple, list)) and all(_is_number(item) for item in value)
    return isinstance(value, type(expected))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _parse(text: str, expected: Any, key: str) -> Any:
    try:
        if isinstance(expected, str):
            return text
        if isinstance(expected, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(expected, tuple):
            value = ast.literal_eval(text if text.startswith(("(", "[")) else f"({text},)" if text else "()")
            return tuple(value)
        if isinstance(expected, dict):
            return dict(ast.literal_eval(text))
        return type(expected)(text)
    except (ValueError, KeyError, SyntaxError, TypeError):
        kind = type(expected).__name__
        raise ValueError(f"config.{key} is {text!r}, but it must be of the kind {kind}, like {expected!r}.") from None
