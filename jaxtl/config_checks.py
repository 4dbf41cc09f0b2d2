"""What the values of a config must be: everything that can be told without opening data or weights."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtl import models, preprocessing
from jaxtl.compress import pruning
from jaxtl.data import READERS
from jaxtl.data.augment import options as augment
from jaxtl.data.augment import presets
from jaxtl.data.sampling import SAMPLINGS
from jaxtl.errors import UserError, nearest
from jaxtl.evaluate import scaling
from jaxtl.feature_cache import features
from jaxtl.finetune import param_groups
from jaxtl.models.head import POOLINGS, asked_fields
from jaxtl.models.layers.attention import FORMS
from jaxtl.parallel import mesh as mesh_lib
from jaxtl.parallel import partitioner
from jaxtl.pretrained.load import abstract_variables
from jaxtl.train import losses, optimizer, schedules
from jaxtl.train.writers import choose as writers
from jaxtl.trees import nest

# Keys whose value is a dict by regular expression.
RULES = ("finetune.lr_multipliers", "finetune.groups", "finetune.l1", "finetune.l2", "train.mesh", "train.sharding")
# Keys whose value may be left to a rule (see `jaxtl.experiment.auto`) -> a value of their kind.
AUTO: dict[str, Any] = {
    "finetune.layer_decay": 1.0,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 0,
    "train.epochs": 5.0,
}
# The keys of optimizer that cannot differ between groups: they concern all gradients together.
_SHARED = ("clip_norm", "sam_rho")
_STAGE_KEYS = ("epochs", "steps", "unfreeze", "rate")
# Of keys whose default is empty and says nothing about what stands in it.
_EXAMPLES = {
    "finetune.groups": "{'block.*': {'name': 'sgd', 'learning_rate': 0.01}}",
    "finetune.stages": "({'epochs': 2, 'unfreeze': 'head'}, {'epochs': 3, 'unfreeze': 'all', 'rate': 0.1})",
    "train.sharding": "{'head/kernel': (None, 'fsdp')}",
}


def problems(values: Mapping[str, Any]) -> list[str]:
    """Returns one line for each problem; all problems at once.

    Args:
      values: of every key, "train.steps" -> 0, each of the right kind.
    """
    values = _without_auto(values)
    return [
        *_model_problems(values),
        *_data_problems(values),
        *_augment_problems(values),
        *_optimizer_problems(values),
        *_finetune_problems(values),
        *_prune_problems(values),
        *_train_problems(values),
        *_log_problems(values),
    ]


def _without_auto(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values with sound ones in place of each "auto"."""
    plain = {**values, **{key: value for key, value in AUTO.items() if values[key] == "auto"}}
    if values["train.epochs"] == "auto" and (values["train.steps"] > 0 or values["finetune.stages"]):
        plain["train.epochs"] = 0.0  # They say how long.
    if values["finetune.unfreeze"] == "auto":
        plain["finetune.unfreeze"] = "all"
    return plain


def is_number(value: Any) -> bool:
    """Tells whether a value is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def kind_of(default: Any, key: str = "") -> str:
    """Says what may stand where the default of a key stands, with an example that is allowed there."""
    if key in AUTO:
        return f'{kind_of(AUTO[key])}, or "auto"'
    if key in _EXAMPLES:
        return f"such as {_EXAMPLES[key]}"
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int):
        return f"a whole number, such as {default or 16}"
    if isinstance(default, float):
        return f"a number, such as {default or 0.5:g}"
    if isinstance(default, tuple):
        return f"numbers with commas, such as {','.join(f'{number:g}' for number in default or (0.5, 0.5, 0.5))}"
    if isinstance(default, dict):
        return f"a dict, such as {default or {'block.*': 0.1}}"
    return f"text, such as {default!r}" if default else "text"


class _Checks(list[str]):
    """The problems found so far."""

    def __init__(self, values: Mapping[str, Any]):
        super().__init__()
        self.values = values

    def check(self, key: str, test: Callable[[Any], bool], allowed: str) -> None:
        if not test(self.values[key]):
            self.append(f"{key} is {self.values[key]!r}, but it must be {allowed}.")

    def choice(self, key: str, names: Sequence[str]) -> None:
        self.check(key, lambda value: value in names, f"one of: {', '.join(repr(name) for name in names)}")

    def not_negative(self, *keys: str) -> None:
        for key in keys:
            self.check(key, lambda value: value >= 0, "0 or more")

    def share(self, *keys: str) -> None:
        for key in keys:
            self.check(key, lambda value: 0 <= value < 1, "at least 0 and below 1")


def _model_problems(values: Mapping[str, Any]) -> list[str]:
    found = _Checks(values)
    name, size = values["model.name"], max(values["model.image_size"], 0)
    for key, given in (("model.name", 0), ("model.image_size", size)):
        try:
            if name != "auto":
                models.build(name, num_classes=2, image_size=given)
        except UserError as error:
            found.append(f"{key}: {error}")
            break  # Of a model that is not known, the size cannot be wrong.
    found.choice("model.head", ("auto", "keep", "new"))
    if values["model.head"] == "keep" and not values["model.weights"]:
        found.append("model.head is 'keep', but a start at random has no head to keep: give model.weights, or 'auto'.")
    found.choice("model.pool", ("", "own", *POOLINGS))
    found.check("model.head_hidden", _are_widths, "widths with commas, such as '512,256', '0' for none, or ''")
    if values["model.single_logit"] and values["train.loss"] == "binary":
        found.append('model.single_logit has the binary cross entropy of its logit already: give train.loss "softmax".')
    found.choice("model.attention", ("auto", *FORMS))
    found.choice("model.interpolation", ("", *preprocessing.INTERPOLATIONS))
    for key in ("model.mean", "model.std"):
        found.check(key, lambda value: len(value) in (0, 1, 3, 4), "one number a channel, for images in [0, 1]")
    found.check("model.std", lambda value: all(number > 0 for number in value), "positive")
    found.not_negative("model.image_size", "model.resize")
    found.share("model.dropout", "model.drop_path")
    return found


def _data_problems(values: Mapping[str, Any]) -> list[str]:
    found = _Checks(values)
    found.check(
        "data.source",
        lambda value: value.split(":")[0] in ("tfds", "folder", "csv", "jsonl", "npz") and ":" in value,
        "one of: tfds:NAME, folder:DIR, csv:FILE, jsonl:FILE, npz:FILE",
    )
    found.choice("data.reader", READERS)
    found.not_negative("data.workers", "data.cache_gib", "eval.batch_size")
    found.choice("eval.calibration", (*scaling.METHODS, "none"))
    return found


def _augment_problems(values: Mapping[str, Any]) -> list[str]:
    found = _Checks(values)
    found.not_negative("augment.mixup", "augment.cutmix")
    own = {name: values[f"augment.{name}"] for name in presets.DEFAULTS}
    lines = [*presets.preset_problems(values["augment.preset"]), *augment.problems(own)]
    return found + [f"augment.{line}" for line in lines]


def _optimizer_problems(values: Mapping[str, Any], prefix: str = "optimizer.") -> list[str]:
    """Checks the keys of optimizer, or of a rule of finetune.groups put over them."""
    found = _Checks(values)
    found.choice(f"{prefix}name", optimizer.NAMES)
    found.choice(f"{prefix}schedule", schedules.NAMES)
    for key in ("learning_rate", "eps"):
        found.check(f"{prefix}{key}", lambda value: value > 0, "positive")
    for key in ("weight_decay", "warmup_steps", "end_factor", "factor", *_SHARED):
        if f"{prefix}{key}" in values:
            found.not_negative(f"{prefix}{key}")
    found.share(*(f"{prefix}{key}" for key in ("momentum", "b1", "b2")))
    if values[f"{prefix}name"] == "adam" and values[f"{prefix}weight_decay"] > 0:
        found.append(f'{prefix}name is "adam", which has no weight decay: use "adamw", or weight_decay 0.')
    steps, warmup = values.get("train.steps", 0), values[f"{prefix}warmup_steps"]
    if steps > 0 and warmup >= steps:
        advice = "give fewer, or train.epochs, which cuts them to fit" if prefix == "optimizer." else "give fewer"
        found.append(f"{prefix}warmup_steps is {warmup}, but the run has {steps} steps: {advice}.")
    return found


def _finetune_problems(values: Mapping[str, Any]) -> list[str]:
    found = _Checks(values)
    found.check("finetune.layer_decay", lambda value: 0 < value <= 1, "above 0 and at most 1")
    for key in ("finetune.lr_multipliers", "finetune.l1", "finetune.l2"):
        found.check(
            key,
            lambda value: all(isinstance(rule, str) and is_number(f) and f >= 0 for rule, f in value.items()),
            "{regex: factor} with factors of 0 or more",
        )
    found.choice("finetune.head_start", ("auto", "probe", "zeros"))
    found.choice("finetune.cache_features", features.MODES)
    found.choice("finetune.frozen_dtype", ("float32", "bfloat16"))
    if values["finetune.frozen_dtype"] == "bfloat16" and values["train.precision"] != "bfloat16":
        found.append('finetune.frozen_dtype "bfloat16" would change results: give it with train.precision "bfloat16".')
    found.check("finetune.cache_views", lambda value: value >= 1, "1 or more")
    mixing = values["augment.mixup"] > 0 or values["augment.cutmix"] > 0
    if mixing and values["finetune.cache_features"] == "on":
        found.append('augment.mixup and .cutmix mix images: give finetune.cache_features "auto" or "off" with them.')
    found += _group_problems(values)
    found += _stage_problems(values)
    found += _rule_problems(values)
    return found


def _prune_problems(values: Mapping[str, Any]) -> list[str]:
    found = _Checks(values)
    found.share("prune.sparsity", "prune.ramp")
    found.choice("prune.pattern", pruning.PATTERNS)
    found.choice("prune.scope", pruning.SCOPES)
    found.check("prune.every", lambda value: value > 0, "1 or more")
    sparsity, pattern = values["prune.sparsity"], values["prune.pattern"]
    if pattern and (sparsity != 0.5 or values["prune.ramp"]):
        found.append(
            f'prune.pattern is "{pattern}", of which half is zero from the start: give prune.sparsity 0.5 and '
            "prune.ramp 0."
        )
    if sparsity and values["model.scan"]:
        found.append("prune.sparsity needs each block by itself: give model.scan false.")
    return found


def _group_problems(values: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    base = {key.partition(".")[2]: value for key, value in values.items() if key.startswith("optimizer.")}
    known = {key: value for key, value in base.items() if key not in _SHARED}
    for rule, given in values["finetune.groups"].items():
        name = f"finetune.groups[{rule!r}]"
        if not isinstance(given, Mapping):
            found.append(f"{name} is {given!r}, but it must be a dict of keys of optimizer.")
            continue
        wrong = []
        for key, value in given.items():
            if key not in known:
                near = nearest(str(key), known)
                meant = f"; did you mean {near!r}?" if near else "."
                wrong.append(f"{name} has no key {key!r}{meant} It takes: {', '.join(known)}.")
            elif not (is_number(value) if is_number(known[key]) else isinstance(value, type(known[key]))):
                wrong.append(f"{name}[{key!r}] is {value!r}, but it must be {kind_of(known[key])}.")
        # Only what the rule itself changes: what it inherits is reported as optimizer.* already.
        whole = {f"{name}.{key}": value for key, value in {**known, **given}.items()}
        inherited = {f"{name}.{key}" for key in known if key not in given and key != "name"}
        steps = {"train.steps": values["train.steps"]}
        found += wrong or [
            line
            for line in _optimizer_problems({**whole, **steps}, f"{name}.")
            if line.split(" is ")[0] not in inherited
        ]
    return found


def _stage_problems(values: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    stages = values["finetune.stages"]
    if stages and values["finetune.unfreeze"] != "all":
        found.append(
            "finetune.stages say what to unfreeze: leave finetune.unfreeze at 'all', or train without them: "
            "finetune.stages=()."
        )
    if stages and (values["train.steps"] or values["train.epochs"]):
        found.append(
            "finetune.stages say how long to train: set train.steps and train.epochs to 0, or train without them: "
            "finetune.stages=()."
        )
    for number, stage in enumerate(stages, start=1):
        name = f"stage {number} of finetune.stages"
        unknown = [key for key in stage if key not in _STAGE_KEYS]
        if unknown:
            found.append(f"{name} has no key {unknown[0]!r}; it takes: {', '.join(_STAGE_KEYS)}.")
        lengths = [stage[key] for key in ("epochs", "steps") if key in stage]
        if len(lengths) != 1 or not is_number(lengths[0]) or lengths[0] <= 0:
            found.append(f"{name} is {dict(stage)!r}: give it epochs or steps, above 0.")
        elif "steps" in stage and not isinstance(stage["steps"], int):
            found.append(f"{name} has {stage['steps']!r} steps, but it must be a whole number.")
        if not isinstance(stage.get("unfreeze"), (str, int)) or isinstance(stage.get("unfreeze"), bool):
            found.append(f'{name} needs unfreeze: "all", "head", a number, or names.')
        if not is_number(stage.get("rate", 1.0)) or stage.get("rate", 1.0) <= 0:
            found.append(f"{name} has the rate {stage['rate']!r}, but it must be a factor above 0.")
    return found


def _rule_problems(values: Mapping[str, Any]) -> list[str]:
    """Finds the rules that fit no group and no parameter of the model, as far as its name tells which it is."""
    try:
        head = asked_fields(values["model.pool"], values["model.head_hidden"], values["model.single_logit"])
        module = models.build(models.with_fields(values["model.name"], **head), num_classes=2)
    except (UserError, ValueError):
        return []  # Reported as model.name or model.head_hidden, or "auto".
    unfreeze = {"finetune.unfreeze": values["finetune.unfreeze"]}
    for number, stage in enumerate(values["finetune.stages"], start=1):
        if isinstance(stage.get("unfreeze"), (str, int)):
            unfreeze[f"unfreeze of stage {number}"] = stage["unfreeze"]
    keys = ("finetune.lr_multipliers", "finetune.groups", "finetune.l1", "finetune.l2")
    rules = {key: [rule for rule in values[key] if isinstance(rule, str)] for key in keys}
    table = module.groups()
    # Most rules name groups; the parameters, which take a moment to list, are needed for the others only.
    if not param_groups.unmatched_rules({group: group for group, _ in table}, unfreeze, rules):
        return []
    params = nest(abstract_variables(module, models.native_size(values["model.name"])))["params"]
    return param_groups.unmatched_rules(param_groups.assign(params, table), unfreeze, rules)


def _are_widths(text: Any) -> bool:
    return str(text) in ("", "0") or re.fullmatch(r" *[1-9]\d* *(, *[1-9]\d* *)*", str(text)) is not None


def _train_problems(values: Mapping[str, Any]) -> list[str]:
    found = _Checks(values)
    found.not_negative(*(f"train.{key}" for key in ("steps", "epochs", "eval_every", "patience", "seed")))
    found.not_negative("train.focal_gamma", "train.loss_scale")
    found.share("train.label_smoothing", "train.ema_decay")
    for key in ("batch_size", "accumulate", "log_every", "keep_latest", "keep_best"):
        found.check(f"train.{key}", lambda value: value > 0, "1 or more")
    found.choice("train.precision", ("float32", "bfloat16", "float16"))
    found.choice("train.parallel", partitioner.NAMES)
    found += _mesh_problems(values)
    found.choice("train.monitor", ("auto", "accuracy", "top5", "loss", "precision", "recall", "f1", "map", "last"))
    if values["train.monitor"] == "last" and values["train.patience"] > 0:
        found.append('train.monitor "last" compares no evaluations: give train.patience 0, or another monitor.')
    found.check(
        "train.loss",
        lambda value: value in losses.NAMES or all(value.partition(":")),
        f"one of: {', '.join(repr(name) for name in losses.NAMES)}, or 'module:function'",
    )
    found.check("train.class_weights", _are_weights, "'', 'balanced', or one number a class, with commas")
    found.choice("train.sampling", SAMPLINGS)
    if values["train.sampling"] and values["train.class_weights"] == "balanced":
        found.append(
            'train.sampling and train.class_weights "balanced" would both favour rare classes: give one of them.'
        )
    steps, epochs = values["train.steps"], values["train.epochs"]
    if not values["finetune.stages"] and (steps > 0) == (epochs > 0):
        found.append(f"train.steps is {steps} and train.epochs {epochs}: give one of them, and 0 for the other.")
    batch_size, parts = values["train.batch_size"], values["train.accumulate"]
    if parts > 0 and batch_size % parts:
        found.append(f"train.batch_size {batch_size} is no multiple of train.accumulate {parts}.")
    return found


def _log_problems(values: Mapping[str, Any]) -> list[str]:
    found = _Checks(values)
    allowed = f"names with commas of: {', '.join(writers.NAMES)}, or ''"
    found.check("log.to", lambda text: set(writers.parse_names(text)) <= {*writers.NAMES}, allowed)
    if values["log.to"]:
        found.check("log.project", bool, "the name of a project")
    return found


def _mesh_problems(values: Mapping[str, Any]) -> list[str]:
    found = _Checks(values)

    def is_mesh(mesh: Mapping[Any, Any]) -> bool:
        counts = list(mesh.values())
        numbers = all(isinstance(n, int) and not isinstance(n, bool) and (n > 0 or n == -1) for n in counts)
        return mesh.keys() <= {*mesh_lib.AXES} and numbers and counts.count(-1) <= 1

    def is_rule(rule: Any, axes: Any) -> bool:
        try:
            re.compile(rule)
        except (re.error, TypeError):
            return False
        return isinstance(axes, (tuple, list)) and all(axis in (None, *mesh_lib.AXES) for axis in axes)

    axes = " and ".join(repr(axis) for axis in mesh_lib.AXES)
    found.check("train.mesh", is_mesh, f"a dict with {axes}: numbers of devices, and -1 at most once, for the rest")
    found.check(
        "train.sharding",
        lambda rules: all(is_rule(*item) for item in rules.items()),
        f"{{regex: axes}}, with None or one of {axes} for each dimension, or () for whole",
    )
    if values["train.parallel"] == "pmap" and (values["train.mesh"].get("fsdp", 1) != 1 or values["train.sharding"]):
        found.append('train.parallel "pmap" cannot shard the state: give "jit", or train.mesh fsdp 1 and no sharding.')
    return found


def _are_weights(text: str) -> bool:
    if text in ("", "balanced"):
        return True
    try:
        return all(math.isfinite(float(number)) and float(number) >= 0 for number in text.split(","))
    except ValueError:
        return False
