"""Every key with its default, reading of config files and flags, and the check that names all problems at once."""

import ast
import inspect
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl import config_checks, config_help, recipes
from jaxtl.config_checks import is_number
from jaxtl.data.augment import presets
from jaxtl.data.augment.options import Augmentation
from jaxtl.errors import UserError
from jaxtl.recipes import choose_variant as choose_variant  # Config files take it from here.

# Arguments of functions that errors name -> the keys that set them.
ARGUMENTS = {
    "attention": "model.attention",
    "cache_dir": "finetune.cache_dir",
    "cache_features": "finetune.cache_features",
    "class_weights": "train.class_weights",
    "clip_norm": "optimizer.clip_norm",
    "data_dir": "data.data_dir",
    "drop_path": "model.drop_path",
    "dropout": "model.dropout",
    "exclude": "data.exclude",
    "image_size": "model.image_size",
    "learning_rate": "optimizer.learning_rate",
    "loss": "train.loss",
    "mean": "model.mean",
    "model": "model.name",
    "reader": "data.reader",
    "relabel": "data.relabel",
    "remat": "model.remat",
    "resize": "augment.resize",
    "scan": "model.scan",
    "single_logit": "model.single_logit",
    "skip_broken": "data.skip_broken",
    "source": "data.source",
    "split": "eval.split",
    "std": "model.std",
    "test": "data.test",
    "to": "log.to",
    "train": "data.train",
    "val": "data.val",
    "warmup_steps": "optimizer.warmup_steps",
    "weights": "model.weights",
    "workers": "data.workers",
}


def default() -> ConfigDict:
    """Returns the config that every file in configs/ starts from.

    The comments are what `jaxtl config` prints: that on a key's line, after those right above it.
    """
    c = ConfigDict(type_safe=False)

    c.model = ConfigDict(type_safe=False)  # What is fine-tuned, and from which weights.
    # A variant, such as "resnet50", or one with fields replaced, "vit_s16:patch=8". "auto": what the weights are of.
    c.model.name = "vit_ti16"
    # "" (at random) | "pretrained" (published weights of model.name) | hf:org/name[@revision] | https://... | gs://...
    # | a path | run:WORKDIR
    c.model.weights = ""
    c.model.head = "auto"  # That of the weights. "auto": kept where the classes are the same, else new | "keep" | "new"
    # What the head reads of the maps or patch tokens before the model's own pooling: "flatten" (all places), "avg",
    # "max", "avg+max"; dense layers of its own after that are left out. "own": its own pooling, and they. "": as the
    # weights have it, else "own".
    c.model.pool = ""
    # Widths of dense layers with ReLU before the last one, "256" or "512,256", each with model.dropout before it; "0":
    # none; "": as the weights have it, else none.
    c.model.head_hidden = ""
    # Two classes from one logit with a sigmoid, for the second class; all else sees two logits, 0 and that one.
    c.model.single_logit = False
    c.model.image_size = 0  # Side of the square the model sees, in pixels; 0: what the weights were trained at.

    # Pixel facts belong to the weights and come with them; these four replace single ones.

    c.model.mean = ()  # Of each channel, for images in [0, 1]; (): that of the weights.
    c.model.std = ()  # Standard deviation of each channel, likewise.
    # How images are resized: "bicubic" | "bilinear" | "lanczos" | "nearest"; "": as the weights expect it.
    c.model.interpolation = ""
    c.model.resize = 0  # Shorter side before the centre crop, in pixels; 0: the ratio of the weights.
    c.model.dropout = 0.0  # Share of features that is dropped in training.
    c.model.drop_path = 0.0  # Stochastic depth of the last block, growing linearly from 0 at the first.
    c.model.remat = False  # Training computes each block twice instead of keeping what lies within it: less memory.
    # Blocks of a ViT that are alike are compiled once and run as a loop: a deep ViT compiles as fast as a shallow one.
    # Writing a checkpoint takes one more copy of those blocks' parameters.
    c.model.scan = False
    # What computes the attention of a ViT: "cudnn" (cuDNN's flash attention) | "xla" (JAX' own function) | "plain"
    # (matrix products). "auto": on a GPU, train, bench and eval take a few seconds to time them, and take the fastest.
    c.model.attention = "auto"

    c.data = ConfigDict(type_safe=False)  # Where images come from, how they are split, and who reads them.
    c.data.source = ""  # tfds:NAME | folder:DIR | csv:FILE | jsonl:FILE | npz:FILE
    c.data.data_dir = ""  # Where prepared TFDS sets lie; "": TFDS' own default.
    # Split language of TFDS for every source, "train[:90%]"; "": the source's own train split, or of a source without
    # splits 80 %, or what a fold to test on leaves.
    c.data.train = ""
    # What decides which checkpoint is best; "": the source's own validation split, else 10 %, of train if there is one.
    c.data.val = ""
    # What the best checkpoint is measured on, such as "fold 3/5"; "": the source's own test split, or of a source
    # without splits 10 %.
    c.data.test = ""
    # Tables of images, as audit writes one, in whose column `action` a person wrote what is to be done; one file may
    # serve both.
    c.data.exclude = ""  # The images with the action "exclude" are left out; no other changes its side.
    c.data.relabel = ""  # The images with the name of a class as their action are of that class.
    c.data.skip_broken = False  # Leave out the images that cannot be decoded, and list them; else they are an error.
    c.data.workers = 0  # How many decode and augment at a time; 0: one a core.
    # "threads" | "processes", which do not wait for each other at Python's lock; the batches are the same. "auto":
    # processes, on Linux, where more than four workers have a core each.
    c.data.reader = "auto"
    c.data.cache_gib = 2.0  # Decoded images are kept in memory up to this size, so that later epochs decode nothing.

    views = Augmentation()  # Its defaults stand there, beside their ranges.
    c.augment = ConfigDict(type_safe=False)  # What the views of training images differ in, in the order it is done.
    # "none" | "small_images" (padded, then cropped, as is usual of CIFAR) | "light" | "medium" | "strong" | "auto" (by
    # a rule): values for the keys below, but mixup and cutmix, that are at their default; the others stay. Given as a
    # flag, it replaces those of the config file too, and flags beside it stay. "" is all as written; "medium except
    # rotate,erase" leaves some as written.
    c.augment.preset = ""
    c.augment.crop = views.crop  # "random_resized" | "resize_crop" | "pad_crop" | "none": as in evaluation
    c.augment.scale = views.scale  # Area of a random resized crop, as a share of the image.
    c.augment.ratio = views.ratio  # Width by height of a random resized crop.
    # Shorter side before the random crop of "resize_crop", in pixels; 0: 8/7 of the crop.
    c.augment.resize = views.resize
    c.augment.pad = views.pad  # Pixels on each side, filled, before the crop of "pad_crop".
    c.augment.flip = views.flip  # Probability of a mirrored image.
    c.augment.vertical_flip = views.vertical_flip  # Probability of an image upside down.
    # Degrees to either side, as in torchvision's RandomRotation; Keras' RandomRotation(0.1) is a share of the circle,
    # 36 here.
    c.augment.rotate = views.rotate
    # Degrees of horizontal shear to either side, as in torchvision's RandomAffine and Keras' ImageDataGenerator.
    c.augment.shear = views.shear
    # 0.2: the content is scaled by 0.8 to 1.2, as with torchvision's RandomAffine(scale=(0.8, 1.2)) and Keras'
    # ImageDataGenerator(zoom_range=0.2).
    c.augment.zoom = views.zoom
    # Share of the view's side by which the content moves, in either direction and along both axes, as in Keras and
    # torchvision.
    c.augment.translate = views.translate
    # What lies beyond the image: "constant" (fill_color) | "reflect" (mirrored at its edge) | "nearest" (its last
    # pixels) | "wrap" (the image again): the names of Keras.
    c.augment.fill = views.fill
    # Three numbers for images in [0, 1], of the fill and of erase; (): the mean of the pixels' normalisation, but black
    # for the fill of "pad_crop".
    c.augment.fill_color = views.fill_color
    # Operations drawn for each image: "randaugment" | "trivialaugment" (wide) | "autoaugment" (for ImageNet) | "".
    c.augment.policy = views.policy
    c.augment.num_ops = views.num_ops  # Operations that "randaugment" draws, one after the other.
    c.augment.magnitude = views.magnitude  # Strength of the operations of "randaugment", from 0 to 30.
    c.augment.color_jitter = views.color_jitter  # Brightness, contrast and saturation change by a factor in 1 +- this.
    c.augment.brightness = views.brightness  # That of brightness alone; 0: color_jitter.
    c.augment.contrast = views.contrast  # That of contrast alone; 0: color_jitter.
    c.augment.saturation = views.saturation  # That of saturation alone; 0: color_jitter.
    # Share of the colour circle by which hues turn to either side, up to 0.5, as in torchvision.
    c.augment.hue = views.hue
    c.augment.grayscale = views.grayscale  # Probability of an image without colours.
    c.augment.blur = views.blur  # Probability of a Gaussian blur.
    c.augment.blur_sigma = views.blur_sigma  # Its standard deviation, in pixels of the view.
    c.augment.noise = views.noise  # Standard deviation of Gaussian noise, for images in [0, 1].
    c.augment.erase = views.erase  # Probability that a box is overwritten with fill_color (random erasing).
    c.augment.erase_area = views.erase_area  # Area of that box, as a share of the view.
    c.augment.mixup = 0.0  # Alpha of the Beta distribution of shares; 0: no blending. With cutmix: one of them a row.
    c.augment.cutmix = 0.0  # Alpha of the Beta distribution of areas that are taken from another image; 0: none.

    # The keys of a dict may hold dots, so it is not converted, here and in train.

    c.finetune = ConfigDict(type_safe=False, convert_dict=False)  # What trains, and what is computed once.
    # What trains: "all" | "head" | k (the head and the last k groups) | names or regexes, with commas; or "biases",
    # "norms". "auto": the head alone where there are few images a class, else all.
    c.finetune.unfreeze = "all"
    # Factor on the rate per group, counted down from the head. "auto": 0.85 where more than the head of pretrained
    # weights without BatchNorm trains, else 1.
    c.finetune.layer_decay = 1.0
    # Where a new head starts: "probe" (the linear classifier that fits the features of the training images, and that
    # fine-tuning has to beat on val) | "zeros". "auto": the probe, where weights are pretrained, the loss is "softmax"
    # or "focal", and the head is one layer.
    c.finetune.head_start = "auto"
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

    c.optimizer = ConfigDict(type_safe=False)  # How far each step goes.
    c.optimizer.name = "adamw"  # Rule that makes moves of gradients: "adamw" | "adam" | "sgd" | "rmsprop"
    # The head's highest rate. "auto": by a rule that goes by weights, batch and what trains; the run says why.
    c.optimizer.learning_rate = "auto"
    c.optimizer.weight_decay = 0.0  # Decoupled; not on biases, norms, position embeddings and tokens.
    c.optimizer.momentum = 0.9  # Share of the last move that is kept, of sgd and rmsprop.
    c.optimizer.b1 = 0.9  # Decay of the first moment, of adam and adamw.
    c.optimizer.b2 = 0.999  # Decay of the second moment, of adam, adamw and rmsprop.
    c.optimizer.eps = 1e-8  # Added to the root of the second moment, of adam, adamw and rmsprop.
    c.optimizer.clip_norm = 0.0  # Largest global norm of the trainable gradients; 0: no clipping.
    c.optimizer.sam_rho = 0.0  # Radius of sharpness-aware minimisation, at twice the time; 0: none.
    c.optimizer.schedule = "cosine"  # How the rate falls after the warm-up: "cosine" | "linear" | "constant" | "step"
    # Steps in which the rate grows from 0 to the highest. "auto": an eighth of the steps, 500 at most.
    c.optimizer.warmup_steps = "auto"
    c.optimizer.end_factor = 0.0  # Last rate by highest rate, of cosine and linear.
    c.optimizer.boundaries = (0.5, 0.75)  # Of "step": shares of the run after which the rate is multiplied by factor.
    c.optimizer.factor = 0.1  # Of "step": what the rate is multiplied by at each of the boundaries.

    c.prune = ConfigDict(type_safe=False)  # Which weights become zero, the smallest ones, and stay zero.
    c.prune.sparsity = 0.0  # Share of the weights of all kernels but the head's that is zero in the end; 0: none.
    c.prune.pattern = ""  # "2:4": two zeros among each four inputs of a unit, with sparsity 0.5; "": anywhere.
    c.prune.scope = "global"  # What has that share: "global" (all kernels together) | "group" (each group by itself)
    # Share of the run's steps in which the zeros grow to that many, fast first and then slowly; 0: all are there before
    # the first step. No checkpoint before is the best.
    c.prune.ramp = 0.0
    c.prune.every = 10  # Steps between two prunings meanwhile.

    c.train = ConfigDict(type_safe=False, convert_dict=False)  # How long, on what, and what is kept.
    c.train.steps = 0  # Length of the run in steps; 0: epochs say it. Given as a flag alone, it replaces epochs.
    # Length of the run in passes over the training images; 0: steps say it. Likewise. "auto": by a rule that goes by
    # the number of images, unless steps or stages say it.
    c.train.epochs = "auto"
    c.train.batch_size = 32  # Images a step, of all devices and hosts together.
    c.train.accumulate = 1  # The batch is computed in this many parts, one after another, to save memory.
    c.train.seed = 0  # Of all that is drawn: the order of images, their views, new parameters, dropout.
    c.train.precision = "float32"  # "float32" | "bfloat16" | "float16": what is computed in; parameters are float32.
    # First factor of dynamic loss scaling; 0: none, but 2 ** 15 for float16. bfloat16 has float32's range: no need.
    c.train.loss_scale = 0.0
    c.train.skip_nonfinite = False  # Leave out and count steps whose gradient is not finite; loss scaling always does.
    c.train.parallel = "jit"  # "jit" | "pmap": how a step is spread over the devices; pmap cannot shard the state.
    # Devices along each axis, -1 for the rest: "data" copies the state, "fsdp" shards it; both share the batch.
    c.train.mesh = {"data": -1, "fsdp": 1}
    # {regex: axes}: what arrays of the state are sharded along, in place of their largest dimension: {"head/kernel":
    # (None, "fsdp")}, or () for whole. A rule fits the end of a path, and the moments of a parameter like itself. With
    # model.scan, rules fit the blocks of a stack alike: "block.*/fc1/kernel".
    c.train.sharding = {}
    # "softmax" | "binary" | "focal" | "module:function" (logits, labels) -> one an example. Evaluation reports it too,
    # without smoothing and class weights; prediction gives the sigmoid of each class for "binary", else the softmax.
    # Several labels an image take "binary".
    c.train.loss = "softmax"
    c.train.label_smoothing = 0.0  # Share of each label that is spread over all classes.
    c.train.focal_gamma = 2.0  # Of the focal loss: how much less what is known well counts; 0: as in softmax.
    c.train.class_weights = ""  # "" | "balanced" (by the counts in train) | one number a class, with commas
    # How often an epoch, as long as ever, shows the images of each class: "" (each image once) | "balanced" (each class
    # alike) | "sqrt" (by the root of its number of images). No image comes again before all others of its class.
    c.train.sampling = ""
    c.train.ema_decay = 0.0  # Decay a step of the moving average of weights, evaluated beside them; 0: none.
    c.train.check_learning_rate = False  # A short sweep before the first step warns of a rate that is far too high.
    c.train.log_every = 10  # Steps between two lines of training metrics.
    # Evaluate and keep a checkpoint after so many steps; 0: at the end of each epoch, or of small sets every few.
    c.train.eval_every = 0
    # The validation metric that decides which checkpoint is best: "accuracy" (of several labels an image the share of
    # images whose labels are all right) | "loss" | "precision" | "recall" | "f1" | "top5" | "map" (of several labels).
    # Among equals the one of lower loss is best. "last": none of them decides, which few images do badly. "auto": by a
    # rule that goes by the number of images.
    c.train.monitor = "auto"
    c.train.keep_latest = 2  # Checkpoints that are kept: so many of the latest.
    c.train.keep_best = 1  # Checkpoints that are kept: so many of the best, too.
    c.train.patience = 0  # Evaluations without a better one after which to stop; 0: never.

    c.log = ConfigDict(type_safe=False)  # Who shows a run while it trains; WORKDIR/metrics.jsonl is always written.
    # With commas: "tensorboard" (WORKDIR/events) | "wandb" (Weights & Biases) | "mlflow" (the store that
    # $MLFLOW_TRACKING_URI says); "": none.
    c.log.to = "tensorboard"
    c.log.project = "jaxtl"  # The project of W&B, or the experiment of MLflow, that the run is one of.
    c.log.name = ""  # What the run is called there; "": as its workdir.

    c.eval = ConfigDict(type_safe=False)  # What is measured, by the eval command and while training.
    # What eval measures: a split, or "": data.test, else what a run held out of these data, else the test split, or
    # whatever split there is alone.
    c.eval.split = ""
    c.eval.batch_size = 0  # Images of all devices together in evaluation; 0: train.batch_size.
    # What a run fits to its logits on val, for whoever asks for calibrated probabilities: "temperature" (one number for
    # all classes; predictions stay) | "vector" (a scale and a bias for each class; they may change) | "none".
    c.eval.calibration = "temperature"
    # At the end, write a page to look at: WORKDIR/report/index.html. The report command does so at any time.
    c.eval.report = True
    return c


@cache
def meanings() -> dict[str, str]:
    """Returns what each key means, and each section: what the comments in `default` say."""
    return config_help.meanings(inspect.getsource(default))


def defaults() -> dict[str, Any]:
    """Returns the default of each key by its whole name, in the order of `default`."""
    values = flat(default())  # A ConfigDict sorts them.
    return {key: values[key] for key in meanings() if key in values}


def load(path: str, overrides: Mapping[str, str]) -> ConfigDict:
    """Returns the config of a file, "FILE" or "FILE:variant", with the flags' values put in.

    Args:
      path: a Python file with `get_config(variant: str = "")`, the name of a recipe (see `jaxtl.recipes`), or the
        config.json of a run.
      overrides: "train.epochs" -> "5", as written on the command line.

    Raises:
      UserError: the file or the variant is missing, or there are problems with keys or values: all in one message.
    """
    if path.endswith(".json"):
        return override(_read(path), overrides)
    config = recipes.run(path)
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise UserError(
            f"--config={path}: get_config() gave a {kind}; it must return what it made of config.default()."
        )
    return override(config, overrides)


def _read(path: str) -> ConfigDict:
    """Returns the config of a config.json; its keys must be known, for nothing of it to be dropped."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config={path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"--config={path} is no JSON: {error}.") from error
    known = dict(_leaves(default()))
    if not isinstance(values, dict) or "model" not in values:
        raise UserError(f"--config={path} is no config: give the config.json of a run, or a Python file.")
    if unknown := [_unknown(key) for key, _ in _leaves(values) if key not in known]:
        raise UserError("\n".join(unknown))
    return from_dict(values)


def override(config: ConfigDict, overrides: Mapping[str, str]) -> ConfigDict:
    """Puts the flags' values into a config and returns it, checked.

    A length given as a flag replaces the other kind of length: with train.steps, train.epochs is set to 0.

    Raises:
      UserError: there are problems with keys or values: all in one message.
    """
    known = dict(_leaves(default()))
    problems = [_unknown(key) for key in overrides if key not in known]
    unread, source = False, config.data.get("source")
    for key in [key for key in overrides if key in known]:
        try:
            _set(config, key, _parse(overrides[key], known[key], key))
        except ValueError as error:
            problems.append(str(error))
            unread = True
    if not unread:  # Else what depends on those values would be called wrong, too.
        _settle_length(config, overrides)
        _settle_preset(config, overrides)
        _settle_corrections(config, overrides, source)
        problems += validate(config)
    if problems:
        raise UserError("\n".join(problems))
    return config


def _settle_length(config: ConfigDict, overrides: Mapping[str, str]) -> None:
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        if f"train.{given}" not in overrides or f"train.{other}" in overrides:
            continue
        length, old = config.train.get(given), config.train.get(other)
        if is_number(length) and is_number(old) and length > 0 and old > 0:
            print(f"note: train.{given} {length:g} is given, so train.{other} {old:g} of the config does not count")
            config.train[other] = type(old)(0)


def _settle_preset(config: ConfigDict, overrides: Mapping[str, str]) -> None:
    """Lets a preset given as a flag replace values of the file, and a flag beside it stay even at its default."""
    augment, preset = config.augment, config.augment.get("preset")
    if not isinstance(preset, str) or presets.preset_problems(preset):
        return  # Reported later.
    given = {key.partition(".")[2] for key in overrides if key.startswith("augment.")}
    if preset and "preset" in given:
        for name, default in presets.DEFAULTS.items():
            if name in augment and name not in given and not presets.is_default(name, augment[name]):
                print(
                    f"note: augment.preset {preset!r} is given, so augment.{name} {augment[name]!r} of the config does "
                    "not count"
                )
                augment[name] = default
    defaults = [name for name in given & presets.DEFAULTS.keys() if presets.is_default(name, augment[name])]
    augment.preset = presets.except_for(preset, defaults)


def _settle_corrections(config: ConfigDict, overrides: Mapping[str, str], source: Any) -> None:
    """Lets another source given as a flag go without the tables of the config's own, such as those of a run."""
    if not source or source == config.data.get("source"):
        return
    for name in ("exclude", "relabel"):
        if config.data.get(name) and f"data.{name}" not in overrides:
            print(
                f"note: data.source is another one, so data.{name} {config.data[name]!r} of the config does not count"
            )
            config.data[name] = ""


def check(config: ConfigDict) -> None:
    """Sees that a config is sound, however it was made.

    Raises:
      UserError: keys are unknown or missing, or values are of the wrong type or out of range: all in one message.
    """
    if problems := validate(config):
        raise UserError("\n".join(problems))


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


def complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a config.json by their whole names; keys that it lacks, being newer, have their default."""
    return {**dict(_leaves(json.loads(json.dumps(to_dict(default()))))), **dict(_leaves(values))}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lists the keys in which two configs differ, as "train.seed: 0 -> 1".

    A key that the old one lacks is newer than it, and has its default there.
    """
    before, after = complete(old), dict(_leaves(new))
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def validate(config: ConfigDict) -> list[str]:
    """Returns one line for each problem that can be seen without opening data or weights."""
    return _unknown_keys(config) or _wrong_types(config) or config_checks.problems(dict(_leaves(config)))


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
    return config_help.unknown(key, defaults(), meanings())


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
    if key in ("finetune.unfreeze", "model.head_hidden") and isinstance(value, int) and not isinstance(value, bool):
        return True
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(expected, bool)
    if key in config_checks.AUTO:
        return value == "auto" or _fits(value, config_checks.AUTO[key], "")
    if isinstance(expected, float):
        return is_number(value)
    if key == "finetune.stages":
        return isinstance(value, (tuple, list)) and all(isinstance(item, (dict, ConfigDict)) for item in value)
    if isinstance(expected, tuple):
        return isinstance(value, (tuple, list)) and all(is_number(item) for item in value)
    return isinstance(value, type(expected))


def _parse(text: str, expected: Any, key: str) -> Any:
    try:
        if key in config_checks.AUTO:
            return text if text == "auto" else type(config_checks.AUTO[key])(text)
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
