"""Where a new head starts: from the linear classifier that fits the features of the training images, or from zeros.

A head of zeros needs a rate that is wild for it later on, and while it learns it sends gradients without a meaning into
features that are good (https://arxiv.org/abs/2202.10054). One that fits them already does neither, for the time of a
third of an epoch.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxtl.data.dataset import Dataset
from jaxtl.errors import UserError
from jaxtl.evaluate.probe import Linear, Split, fit_linear
from jaxtl.experiment.backbone import Backbone, make_backbone
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.input_pipeline import Inputs
from jaxtl.experiment.model import has_new_head
from jaxtl.feature_cache import features
from jaxtl.models.base import AUXILIARY
from jaxtl.parallel import processes
from jaxtl.trees import flatten, nest

# Images times classes: all penalties of the fit keep so many logits at once, which take some 2 GiB. Features of so many
# images as there may be of two classes take less up to this width; and beyond the last, the fit's basis takes minutes.
_LARGEST, _WIDTH_PER_CLASS, _WIDEST = 10**7, 50, 4096
_LOSSES = ("softmax", "focal")


@dataclass(frozen=True)
class HeadStart:
    """What a head starts from.

    Attributes:
      linear: the classifier.
      images: that it was fitted to.
      seconds: that it took, features included.
    """

    linear: Linear
    images: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Gives what results.json holds of it."""
        accuracy, loss, penalty = self.linear.accuracy, self.linear.loss, self.linear.penalty
        val = {"accuracy": accuracy, "loss": loss}
        return {"penalty": penalty, "images": self.images, "seconds": self.seconds, "val": val}


def begins_with_probe(experiment: Experiment) -> bool:
    """Tells whether the head of an experiment is to start from a linear probe of its features.

    Raises:
      UserError: finetune.head_start is "probe", but nothing can be probed, or the head is no linear classifier.
    """
    mode = experiment.config.finetune.head_start
    obstacle = "" if mode == "zeros" else _obstacle(experiment)
    if mode == "probe" and obstacle:
        raise UserError(f'finetune.head_start is "probe", but {obstacle}: give "auto" or "zeros".')
    return mode != "zeros" and not obstacle


def why_zeros(experiment: Experiment) -> str:
    """Returns why a new head on pretrained features starts from zeros where the choice is left; "" where it does not.

    Where everything is random, or the head is kept, no one expects a probe.
    """
    report = experiment.load_report
    if experiment.config.finetune.head_start != "auto" or report is None or not has_new_head(report, experiment.model):
        return ""
    return _obstacle(experiment)


def is_comparable(experiment: Experiment) -> bool:
    """Tells whether training aims at what a probe does, so that its loss on val may decide between them.

    Soft labels, which blending makes too, and a focal loss aim at probabilities that are less sure, and what weighs
    classes or images at others.
    """
    config, train = experiment.config, experiment.splits.train
    soft = config.train.label_smoothing or config.augment.mixup or config.augment.cutmix
    weighed = config.train.class_weights or config.train.sampling or train.weights is not None
    return experiment.loss_name == "softmax" and not soft and not weighed


def _obstacle(experiment: Experiment) -> str:
    """Returns why a head cannot start from a probe, or ""."""
    model, train = experiment.model, experiment.splits.train
    if experiment.load_report is None:
        return "there are no pretrained weights, whose features it would fit"
    if not has_new_head(experiment.load_report, model):
        return "the head of the weights is kept"
    if experiment.several:
        return "images have several labels"
    if experiment.loss_name not in _LOSSES:
        return f'the loss is "{experiment.loss_name}", and a probe fits the cross entropy'
    if not is_linear(model.module, experiment.variables, model.pixels.size):
        return "the head is more than one dense layer"
    width = flatten(experiment.variables)[model.module.head_path].shape[0]
    if len(train) * max(len(model.classes), width / _WIDTH_PER_CLASS) > _LARGEST or width > _WIDEST:
        return f"{len(train):,} images of {len(model.classes):,} classes and {width:,} features are too many"
    return ""


def is_linear(module: Any, variables: Mapping[str, Any], size: int) -> bool:
    """Tells whether the logits of a module are a dense layer's on what the groups before its head give of an image."""
    kernel = flatten(variables)[module.head_path]
    image = jax.ShapeDtypeStruct((2, size, size, 3), np.float32)
    features = jax.eval_shape(
        lambda tree, x: module.apply(tree, x, train=False, stop=_last_group(module)), variables, image
    )
    if len(module.classifier_paths()) > 1 or kernel.ndim != 2 or features.shape != (2, kernel.shape[0]):
        return False
    generator = np.random.default_rng(0)
    rows = generator.normal(size=features.shape).astype(np.float32)
    linear = Linear(generator.normal(size=(len(kernel), module.num_classes)), np.zeros(module.num_classes), 0, 0, 0)
    given = module.apply(with_head(variables, module, linear), rows, train=False, start="head")
    expected = rows @ linear.kernel
    found, wanted = (each - each[:, :1] for each in (np.asarray(given), expected))
    return bool(np.abs(found - wanted).max() <= 1e-2 * np.abs(wanted).max())


def _last_group(module: Any) -> str:
    """Returns the group before the head."""
    return [name for name, _ in module.groups() if not AUXILIARY.fullmatch(name)][-2]


def start_from_probe(experiment: Experiment, inputs: Inputs) -> tuple[Experiment, HeadStart]:
    """Fits a linear classifier to the features of the training images, and returns the experiment with it as its head.

    Features are those of images as evaluation sees them, of the groups before the head; val chooses the penalty.
    """
    begun = time.perf_counter()
    model, splits = experiment.model, experiment.splits
    stop = _last_group(model.module)
    kept = inputs.kept(stop)
    if kept is None:
        backbone = make_backbone(experiment, stop)
        kept = _features(backbone, splits.train), _features(backbone, splits.val)
    # Kept ones may be in half precision, in which their means would be sums that stand still.
    train, val = (
        Split(np.asarray(rows, np.float32), split.labels)
        for rows, split in zip(kept, (splits.train, splits.val), strict=True)
    )
    linear = fit_linear(train, val, num_classes=len(model.classes))
    if processes.is_multiprocess():  # Hosts of another kind round otherwise, but the head is one.
        kernel, bias = multihost_utils.broadcast_one_to_all((linear.kernel, linear.bias))
        linear = dataclasses.replace(linear, kernel=np.asarray(kernel), bias=np.asarray(bias))
    variables = with_head(experiment.variables, model.module, linear)
    start = HeadStart(linear, len(splits.train), time.perf_counter() - begun)
    return dataclasses.replace(experiment, variables=variables), start


def with_head(variables: Mapping[str, Any], module: Any, linear: Linear) -> dict[str, Any]:
    """Returns variables with a linear classifier as the head of a module, or the difference of two as its one logit."""
    kernel, bias = linear.kernel, linear.bias
    if module.single_logit:
        kernel, bias = kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
    path = module.head_path
    leaves = flatten(variables)
    replaced = {path: kernel, path.replace("kernel", "bias"): bias}
    return nest(leaves | {name: jnp.asarray(array, leaves[name].dtype) for name, array in replaced.items()})


def _features(backbone: Backbone, dataset: Dataset) -> np.ndarray:
    """Returns the features of a data set [N, D], whole on each host."""
    rows = np.empty((len(dataset), *backbone.shape), np.float32)

    def write(row: int, values: np.ndarray) -> None:
        rows[row : row + len(values)] = values

    batches = backbone.image_batches(dataset)
    features.compute(backbone.forward, batches, write, count=len(dataset), shard_batch=backbone.shard_batch)
    return rows
