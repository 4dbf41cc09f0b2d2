"""Every key with its default, reading of config files and flags, and the check that names all problems at once."""

import ast
import difflib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl import config_checks
from jaxtl.config_checks import is_number
from jaxtl.errors import UserError

# Arguments of functions that errors name -> the keys that set them.
ARGUMENTS = {
    "cache_dir": "finetune.cache_dir",
    "cache_features": "finetune.cache_features",
    "clip_norm": "optimizer.clip_norm",
    "data_dir": "data.data_dir",
    "learning_rate": "optimizer.learning_rate",
    "mean": "model.mean",
    "model": "model.name",
    "reader": "data.reader",
    "resize": "augment.resize",
    "skip_broken": "data.skip_broken",
    "source": "data.source",
    "split": "eval.split",
    "std": "model.std",
    "test": "data.test",
    "train": "data.train",
    "val": "data.val",
    "warmup_steps": "optimizer.warmup_steps",
    "weights": "model.weights",
    "workers": "data.workers",
}


def default() -> ConfigDict:
    """Returns the config that every file in configs/ starts from."""
    c = ConfigDict(type_safe=False)

    c.model = ConfigDict(type_safe=False)
    c.model.name = "vit_ti16"  # See jaxtl.models.names().
    # "" (from scratch) | "pretrained" (published weights of model.name) | hf:org/name[@revision] | https://... | gs://...
    # | a path | run:WORKDIR
    c.model.weights = ""
    c.model.head = "auto"  # "auto": kept where the classes are the same, else new | "keep" | "new"
    c.model.image_size = 0  # Side of the square the model sees, in pixels; 0: what the weights were trained at.
    # Pixel facts belong to the weights and come with them; these replace single ones. (): from the weights.
    c.model.mean = ()
    c.model.std = ()
    c.model.interpolation = ""
    c.model.resize = 0  # Shorter side before the centre crop, in pixels.
    c.model.dropout = 0.0
    c.model.drop_path = 0.0  # Stochastic depth of the last block, growing linearly from 0 at the first.
    c.model.remat = False  # Training computes each block twice instead of keeping what lies within it: less memory.
    # Blocks of a ViT that are alike are compiled once and run as a loop: a deep ViT compiles as fast as a shallow one.
    # Writing a checkpoint takes one more copy of those blocks' parameters.
    c.model.scan = False
    # What computes the attention of a ViT: "cudnn" (cuDNN's flash attention) | "xla" (JAX' own function) | "plain"
    # (matrix products). "auto": on a GPU, train, bench and eval take a few seconds to time them, and take the fastest.
    c.model.attention = "auto"

    c.data = ConfigDict(type_safe=False)
    c.data.source = ""  # tfds:NAME | folder:DIR | csv:FILE | npz:FILE
    c.data.data_dir = ""  # Where prepared TFDS sets lie; "": TFDS' own default.
    c.data.train = ""  # Split language of TFDS, "train[:90%]"; "": the source's own train split.
    c.data.val = ""  # "": the source's own validation split, else 10 % of train.
    c.data.test = ""  # "": the source's own test split.
    c.data.skip_broken = False  # Leave out the images that cannot be decoded, and list them; else they are an error.
    c.data.workers = 0  # How many decode and augment at a time; 0: one a core.
    # "threads" | "processes", which do not wait for each other at Python's lock; the batches are the same. "auto":
    # processes, on Linux, where more than four workers have a core each.
    c.data.reader = "auto"
    c.data.cache_gib = 2.0  # Decoded images are kept in memory up to this size, so that later epochs decode nothing.

    c.augment = ConfigDict(type_safe=False)
    c.augment.crop = "random_resized"  # "random_resized" | "resize_crop" | "pad_crop" | "none"
    c.augment.scale = (0.08, 1.0)  # Area of a random resized crop, as a share of the image.
    c.augment.ratio = (3 / 4, 4 / 3)  # Its width by its height.
    c.augment.resize = 0  # Shorter side before the random crop of "resize_crop", in pixels; 0: 8/7 of the crop.
    c.augment.pad = 4  # Pixels around the image before "pad_crop".
    c.augment.flip = 0.5  # Probability of a mirrored image.
    c.augment.color_jitter = 0.0  # Brightness, contrast and saturation change by a factor in 1 +- this.
    c.augment.mixup = 0.0  # Alpha of the Beta distribution of shares; 0: no blending. With cutmix: one of them a row.
    c.augment.cutmix = 0.0  # Likewise, of areas.

    c.finetune = ConfigDict(type_safe=False, convert_dict=False)  # The keys of a dict may hold dots.
    # "all" | "head" | k (the head and the last k groups) | names or regexes, with commas; or "biases", "norms"
    c.finetune.unfreeze = "all"
    c.finetune.layer_decay = 1.0  # Factor on the rate per group, counted down from the head.
    # {regex: factor} on the rates of matching groups or parameters; "backbone" is every group but the head.
    c.finetune.lr_multipliers = {}
    # {regex: {key of optimizer: value}}: what replaces the keys of optimizer for matching groups or parameters, such as
    # {"block.*": {"name": "sgd", "learning_rate": 0.01}}; the first rule that fits counts. All keys but clip_norm and
    # sam_rho, which concern all gradients together.
    c.finetune.groups = {}
    c.finetune.l1 = {}  # {regex: factor}: factor * |w| is added to the loss.
    c.finetune.l2 = {}  # {regex: factor}: factor * w ** 2 is added to the loss.
    # One after the other, such as ({"epochs": 2, "unfreeze": "head"}, {"epochs": 3, "unfreeze": "all", "rate": 0.1}):
    # "epochs" or "steps", "unfreeze", and a factor "rate" on all rates. In place of unfreeze, train.steps and .epochs.
    c.finetune.stages = ()
    c.finetune.restart_schedule = True  # Each stage has the schedule anew, warm-up too; else it spans the whole run.
    # What the frozen groups at the input make of an image is computed once: "auto" | "on" | "off". "auto" does so where
    # it changes nothing but the time: without augmentation, or with cache_views, and where the results find room.
    c.finetune.cache_features = "auto"
    c.finetune.cache_views = 1  # 1: each image as evaluation sees it; above: so many views, drawn as augment says.
    c.finetune.cache_dir = ""  # Where features lie on disk, for other runs too; "": in memory, if they fit, or WORKDIR.

    # "bfloat16": the devices hold frozen parameters in half the memory, where the model rounds them before any use;
    # results stay the same, and checkpoints keep float32. It needs train.precision "bfloat16".
    c.finetune.frozen_dtype = "float32"

    c.optimizer = ConfigDict(type_safe=False)
    c.optimizer.name = "adamw"  # "adamw" | "adam" | "sgd" | "rmsprop"
    c.optimizer.learning_rate = 1e-3  # The head's highest rate.
    c.optimizer.weight_decay = 0.0  # Decoupled; not on biases, norms, position embeddings and tokens.
    c.optimizer.momentum = 0.9  # Of sgd and rmsprop.
    c.optimizer.b1 = 0.9
    c.optimizer.b2 = 0.999
    c.optimizer.eps = 1e-8
    c.optimizer.clip_norm = 0.0  # Largest global norm of the trainable gradients; 0: no clipping.
    c.optimizer.sam_rho = 0.0  # Radius of sharpness-aware minimisation, at twice the time; 0: none.
    c.optimizer.schedule = "cosine"  # "cosine" | "linear" | "constant" | "step"
    c.optimizer.warmup_steps = 0
    c.optimizer.end_factor = 0.0  # Last rate by highest rate, of cosine and linear.
    c.optimizer.boundaries = (0.5, 0.75)  # Of "step": shares of the run after which the rate is multiplied ...
    c.optimizer.factor = 0.1  # ... by this.

    c.train = ConfigDict(type_safe=False, convert_dict=False)  # As for finetune.
    c.train.steps = 0  # Either steps ...
    c.train.epochs = 0.0  # ... or epochs.
    c.train.batch_size = 32  # Of all devices and hosts together.
    c.train.accumulate = 1  # The batch is computed in this many parts, one after another, to save memory.
    c.train.seed = 0
    c.train.precision = "float32"  # "float32" | "bfloat16" | "float16": what is computed in; parameters are float32.
    # First factor of dynamic loss scaling; 0: none, but 2 ** 15 for float16. bfloat16 has float32's range: no need.
    c.train.loss_scale = 0.0
    c.train.skip_nonfinite = False  # Leave out and count steps whose gradient is not finite; loss scaling always does.
    c.train.parallel = "jit"  # "jit" | "pmap"
    # Devices along each axis, -1 for the rest: "data" copies the state, "fsdp" shards it; both share the batch.
    c.train.mesh = {"data": -1, "fsdp": 1}
    # {regex: axes}: what arrays of the state are sharded along, in place of their largest dimension: {"head/kernel":
    # (None, "fsdp")}, or () for whole. A rule fits the end of a path, and the moments of a parameter like itself. With
    # model.scan, rules fit the blocks of a stack alike: "block.*/fc1/kernel".
    c.train.sharding = {}
    # "softmax" | "binary" | "focal" | "module:function" (logits, labels) -> one an example. Evaluation reports it too,
    # without smoothing and class weights; prediction gives the sigmoid of each class for "binary", else the softmax.
    c.train.loss = "softmax"
    c.train.label_smoothing = 0.0
    c.train.focal_gamma = 2.0
    c.train.class_weights = ""  # "" | "balanced" (by the counts in train) | one number a class, with commas
    c.train.ema_decay = 0.0  # Of the moving average of weights, evaluated beside them; 0: none.
    c.train.check_learning_rate = False  # A short sweep before the first step warns of a rate that is far too high.
    c.train.log_every = 10  # Steps.
    c.train.eval_every = 0  # Steps; 0: at the end of each epoch.
    c.train.monitor = "accuracy"  # The validation metric that decides which checkpoint is best.
    c.train.keep_latest = 2  # Checkpoints that are kept: so many of the latest ...
    c.train.keep_best = 1  # ... and so many of the best.
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


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values by their whole names, such as "train.seed"."""
    return dict(_leaves(config))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lists the keys in which two configs differ, as "train.seed: 0 -> 1".

    A key that the old one lacks is newer than it, and has its default there.
    """
    defaults = dict(_leaves(json.loads(json.dumps(to_dict(default())))))
    before, after = {**defaults, **dict(_leaves(old))}, dict(_leaves(new))
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def validate(config: ConfigDict) -> list[str]:
    """Returns one line for each problem that can be seen without opening data or weights."""
    return _unknown_keys(config) or _wrong_types(config) or config_checks.problems(dict(_leaves(config)))


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
        if isinstance(value, (ConfigDict, dict)) and f"{prefix}{key}" not in config_checks.RULES:
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
            problems.append(f"{key} is {given[key]!r}, but it must be {config_checks.kind_of(expected, key)}.")
    return problems


def _fits(value: Any, expected: Any, key: str) -> bool:
    if key == "finetune.unfreeze" and isinstance(value, int):
        return True
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(expected, bool)
    if isinstance(expected, float):
        return is_number(value)
    if key == "finetune.stages":
        return isinstance(value, (tuple, list)) and all(isinstance(item, (dict, ConfigDict)) for item in value)
    if isinstance(expected, tuple):
        return isinstance(value, (tuple, list)) and all(is_number(item) for item in value)
    return isinstance(value, type(expected))


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
        raise ValueError(f"config.{key} is {text!r}, but it must be {config_checks.kind_of(expected, key)}.") from None
