"""What "auto" stands for in a config: rates, lengths, augmentation and what trains, by rule, each with its reason."""

import contextlib
import copy
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from jaxtl.data.augment import presets
from jaxtl.data.dataset import Dataset
from jaxtl.data.decode import size as image_size
from jaxtl.errors import UserError
from jaxtl.experiment import options
from jaxtl.experiment.loaded_model import Model
from jaxtl.experiment.sizes import SETTLING_STEPS, stage_lengths

# A head alone, on a few images a class, is as good as everything, and cannot forget.
_FEW_A_CLASS = 5
# The rate grows for this part of a run, and for so many steps at most (BiT's, https://arxiv.org/abs/1912.11370).
_WARMUP_SHARE, _LONGEST_WARMUP = 8, 500
# Of fewer images one is half a point of accuracy and more.
_FEW_TO_CHOOSE = 200
# Of images with so few pixels a side, crops of a quarter of the area cost accuracy: 90.5, 89.5 and 90.3 % on petals,
# where padding by 4 pixels has 92.5, 93.2 and 92.5 % (seeds 0 to 2), and 64.2, 60.8 and 60.7 % on CIFAR-10, seen at 64,
# where that has 64.2, 63.3 and 62.3 %. All from pretrained weights, at one rate for all layers: of random ones nothing
# was measured.
_SMALL = 64
_OF_CROPS = ("crop", "scale", "ratio")
# Between one rate for all, which moves far from the weights, and the 0.65 to 0.75 of deeper transformers.
_LAYER_DECAY = 0.85
# Images whose size is looked at: a set is of one kind.
_LOOKED_AT = 5
# Images of a set whose number is not known: many.
_UNKNOWN = 10**9


@dataclass(frozen=True)
class Facts:
    """What the rules go by.

    Attributes:
      images: to train on; 0 where they are not at hand.
      classes: of them.
      pretrained: whether there are weights.
      batch_norm: whether the model has BatchNorm.
      batch_size: images a step, cut to their number; 0 for that of the config.
      validation: images to validate on; 0 where they are not at hand.
      size: the longest side in pixels of images to train on, as they are stored or as the model sees them, whichever
        is more; 0 where that is not known.
    """

    images: int
    classes: int
    pretrained: bool
    batch_norm: bool
    batch_size: int = 0
    validation: int = 0
    size: int = 0


def facts_of(
    config: ConfigDict, model: Model, *, pretrained: bool, train: Dataset | None = None, batch: int = 0, val: int = 0
) -> Facts:
    """Returns the facts of an experiment; without images to train on, those that are known without."""
    asked = presets.is_auto(config.augment.preset)  # Else no image is read for it.
    return Facts(
        0 if train is None else len(train),
        len((model if train is None else train).classes),
        pretrained,
        model.module.has_batch_norm,
        batch_size=batch,
        validation=val,
        size=max(model.pixels.size, _longest_side(train)) if train is not None and asked else 0,
    )


def _longest_side(train: Dataset) -> int:
    sides = [0]
    for i in range(min(len(train), _LOOKED_AT)):
        with contextlib.suppress(UserError, OSError):  # Whoever reads all of them tells what is wrong with it.
            sides.append(max(image_size(train.read(i))))
    return max(sides)


def resolve(config: ConfigDict, facts: Facts) -> tuple[ConfigDict, tuple[str, ...]]:
    """Returns the config with values in place of each "auto", and a line for each that says which, and why."""
    config, notes = copy.deepcopy(config), list[str]()

    def put(key: str, rule: tuple[Any, str]) -> None:
        section, name = key.split(".")
        if config[section][name] == "auto":
            config[section][name], why = rule
            notes.append(f"{key} is {_plain(rule[0])}: {why}")

    put("finetune.unfreeze", _unfreeze(facts))
    put("finetune.layer_decay", _layer_decay(config, facts))
    put("optimizer.learning_rate", _learning_rate(config, facts))
    if config.train.epochs == "auto" and (config.train.steps or config.finetune.stages):
        config.train.epochs = 0.0  # Something else says how long.
    put("train.epochs", _epochs(config, facts))
    put("optimizer.warmup_steps", _warmup(config, facts))
    put("train.monitor", _monitor(config, facts))
    if presets.is_auto(config.augment.preset):
        chosen, why = _preset(config, facts)
        config.augment.preset = presets.in_place_of_auto(config.augment.preset, chosen)
        notes.append(f"augment.preset is {config.augment.preset!r}: {why}; {options.preset_in_words(config, config)}")
    return config, tuple(notes)


def _unfreeze(facts: Facts) -> tuple[str, str]:
    if facts.pretrained and 0 < facts.images < _FEW_A_CLASS * facts.classes:
        return "head", f"{facts.images} images of {facts.classes} classes are too few to change features by"
    mean = f", here {facts.images / facts.classes:.3g}" if facts.images and facts.classes else ""
    why = f"from {_FEW_A_CLASS} images a class on, on average{mean}, everything that adapts is better than a head alone"
    return "all", why


def _layer_decay(config: ConfigDict, facts: Facts) -> tuple[float, str]:
    if not facts.pretrained:
        return 1.0, "all layers start at random, and learn alike"
    if config.finetune.unfreeze == "head" and not config.finetune.stages:
        return 1.0, "a head alone has one rate"
    if facts.batch_norm:
        return 1.0, "networks with BatchNorm are fine-tuned at one rate"
    return _LAYER_DECAY, "the nearer to the image, the more of what was learned is to be kept (BEiT, arXiv:2106.08254)"


def _learning_rate(config: ConfigDict, facts: Facts) -> tuple[float, str]:
    name, batch = config.optimizer.name, facts.batch_size or config.train.batch_size
    adaptive = name != "sgd"
    if not facts.pretrained:
        if adaptive:
            return 1e-3, f"the usual rate of {name} for a start at random"
        return _rounded(0.1 * batch / 256), f"0.1 for 256 images a step, here {batch}, arXiv:1706.02677"
    if config.finetune.unfreeze == "head" and not config.finetune.stages:
        if adaptive:
            return 1e-3, f"the usual rate of {name}, for a head alone"
        return _rounded(0.1 * batch / 256), f"0.1 for 256 images a step, here {batch}, for a head alone"
    if not adaptive:
        return _rounded(0.01 * batch / 64), f"0.01 for 64 images a step, here {batch}, a tenth of that at random"
    if facts.batch_norm:
        return _rounded(5e-4 * (batch / 32) ** 0.5), f"half of that at random, by the root of the {batch} images a step"
    # With a rate that falls layer by layer the highest one acts on the head and the last blocks alone.
    base = 5e-4 if config.finetune.layer_decay < 1 else 2e-4
    why = f"{base:g} for 32 images a step and weights to be kept, by the root of the {batch} here"
    return _rounded(base * (batch / 32) ** 0.5), why


def _epochs(config: ConfigDict, facts: Facts) -> tuple[float, str]:
    images = max(facts.images, 1)
    if not facts.pretrained:
        least, seen, most = 30, 30_000, 300
    elif config.finetune.unfreeze == "head":
        least, seen, most = 5, 6_000, 100
    else:
        least, seen, most = 6, 6_000, 100
    epochs = min(max(least, round(seen / images)), most)
    if not facts.images:
        return float(epochs), "the number of images is not known here"
    why = f"{least} of a large set, {most} at most of a small one, between them {seen:,} images in all"
    return float(epochs), f"{why}, as longer runs are for harder sets (BiT's rule, arXiv:1912.11370)"


def _lengths(config: ConfigDict, facts: Facts) -> list[int]:
    return stage_lengths(config, (facts.images or _UNKNOWN) / (facts.batch_size or config.train.batch_size))


def _warmup(config: ConfigDict, facts: Facts) -> tuple[int, str]:
    batch = facts.batch_size or config.train.batch_size
    lengths = _lengths(config, facts)
    steps = min(lengths) if config.finetune.restart_schedule else sum(lengths)
    share = f"{steps:,} steps" if facts.images or steps < _UNKNOWN / batch else "the steps"
    why = "the first steps come before the optimizer knows how large gradients are"
    return min(steps // _WARMUP_SHARE, _LONGEST_WARMUP), f"an eighth of {share}, {_LONGEST_WARMUP} at most: {why}"


def _monitor(config: ConfigDict, facts: Facts) -> tuple[str, str]:
    images, falls = facts.validation, config.optimizer.schedule in ("cosine", "linear")
    if not 0 < images < _FEW_TO_CHOOSE:
        return "accuracy", f"from {_FEW_TO_CHOOSE} images on, val can tell which checkpoint is best"
    few = f"{images} images tell by chance which checkpoint has most of them right"
    if (
        config.train.patience
        or not falls
        or config.optimizer.end_factor
        or sum(_lengths(config, facts)) < SETTLING_STEPS
    ):
        return "loss", f"{few}, and the loss is finer"
    return "last", f"{few}, and with the rate at 0 the last is good"


def _preset(config: ConfigDict, facts: Facts) -> tuple[str, str]:
    if facts.pretrained and config.finetune.unfreeze == "head":
        return "none", "a head alone on plain images, whose features are computed once, is as good and faster"
    if not facts.pretrained:
        return "medium", "a start at random sees each image often"
    left = presets.exceptions(config.augment.preset)
    own = [name for name in _OF_CROPS if name in left or not presets.is_default(name, config.augment[name])]
    if 0 < facts.size <= _SMALL and not own:
        why = f"a quarter of {facts.size} x {facts.size} pixels shows little; such images are padded, then cropped"
        return "small_images", f"{why} (arXiv:1512.03385)"
    return "light", "pretrained features need few epochs, in which strong views only slow the fit"


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def _plain(value: Any) -> str:
    return repr(value) if isinstance(value, str) else f"{value:g}"
