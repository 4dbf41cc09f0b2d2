"""The one builder: from a config to an experiment, with its data and weights, or from shapes alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxtl import config as config_lib
from jaxtl import data, pretrained
from jaxtl.checkpoints.manager import read_best
from jaxtl.compress.pruning import prune
from jaxtl.compress.quantization import with_rounded_kernels
from jaxtl.data.corrections import in_short
from jaxtl.data.splits import canonical
from jaxtl.errors import UserError
from jaxtl.evaluate.metrics import gives_top5
from jaxtl.evaluate.multilabel import mean_average_precision
from jaxtl.experiment import auto, options
from jaxtl.experiment import workdir as files
from jaxtl.experiment.evaluation import align_classes, choose_split
from jaxtl.experiment.losses import choose_loss, evaluation_loss
from jaxtl.experiment.model import (
    Model,
    examine_weights,
    has_new_head,
    load_model,
    make_model,
    make_variables,
    open_both,
    open_weights,
)
from jaxtl.experiment.sizes import fit_to_size, fitting_batch, note_few, with_fitted
from jaxtl.experiment.splits import open_splits, usable, with_shared_images
from jaxtl.experiment.trained_images import count_trained
from jaxtl.experiment.training_plan import NO_PLAN, Plan, make_plan
from jaxtl.models import check_size
from jaxtl.parallel.partitioner import Partitioner, make_partitioner
from jaxtl.pretrained.load import abstract_variables
from jaxtl.train.losses import Loss, softmax_cross_entropy
from jaxtl.trees import nest

Purpose = Literal["train", "evaluate", "features"]


def _no_devices(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("an abstract experiment lies on no device")


NO_DEVICES = Partitioner(0, None, _no_devices, _no_devices, _no_devices, _no_devices, _no_devices)
"""The partitioner of an abstract experiment: it takes no device of this process."""


@dataclass(frozen=True)
class Experiment:
    """What a config describes, ready for a command.

    Attributes:
      config: what it was built from, its preset written out and cut to the size of the data (see
        `sizes.fit_to_size`); nobody changes it.
      model: for the classes of the data, or as the purpose has it.
      variables: to start from; of an abstract experiment their shapes.
      load_report: where they come from; None without weights.
      splits: the data; empty sets where nothing was opened.
      origin: where the classes come from, or which split is evaluated, in words.
      plan: what trains, and how; of an experiment that trains nothing, `training_plan.NO_PLAN`.
      partitioner: how steps lie on the devices; an abstract experiment has none.
      loss: of training.
      eval_loss: what evaluations report.
      loss_name: what the config calls both.
      trained_on: how many images of the split that is evaluated trained the weights (see `count_trained`).
      given: the config as it was given; None where it is `config`.
      earlier: whether it goes on with a run of before splits and steps were cut to the size of the data.
    """

    config: ConfigDict
    model: Model
    variables: dict[str, Any]
    load_report: pretrained.LoadReport | None
    splits: data.Splits
    origin: str
    plan: Plan = NO_PLAN
    partitioner: Partitioner = NO_DEVICES
    loss: Loss = softmax_cross_entropy
    eval_loss: Loss = softmax_cross_entropy
    loss_name: str = "softmax"
    trained_on: int = 0
    given: ConfigDict | None = None
    earlier: bool = False

    @property
    def several(self) -> bool:
        """Whether an image has several labels, or none, instead of one."""
        splits = (self.splits.train, self.splits.val, self.splits.test)
        return any(split is not None and split.several for split in splits)

    @property
    def steps_per_epoch(self) -> float:
        """The number of batches that hold as many examples as the training split."""
        return len(self.splits.train) / self.config.train.batch_size


def build(
    config: ConfigDict,
    *,
    purpose: Purpose = "train",
    abstract: bool = False,
    weights_optional: bool = False,
    earlier: bool = False,
    fitted: Mapping[str, Any] | None = None,
) -> Experiment:
    """Builds what a config describes; whatever the user can fix is reported here, before anything is compiled.

    Args:
      config: the config; it is not changed, and may build again in the same process.
      purpose: "train" builds the model for the classes of the data; "evaluate" keeps the head of the weights, and gives
        the labels of the data in its order; "features" builds the model without a head.
      abstract: whether shapes are enough: neither data nor weights need be at hand, no array is read, and no device
        is taken. Without data the classes are those of the weights.
      weights_optional: whether an abstract experiment does without weights where they cannot be opened.
      earlier: whether a run goes on that began before splits and steps were cut to the size of the data: it keeps its
        own (see `workdir.began_earlier`).
      fitted: what a run that goes on was cut to, and its preset written out to, when it began (see
        `workdir.began_fitted`); None to do so now.

    Raises:
      UserError: the config is not sound, data or weights cannot be opened, do not fit each other or the config, or a
        batch cannot be shared out evenly over the devices.
    """
    config_lib.check(config)
    if abstract:
        if purpose != "train":
            raise ValueError(f"an abstract experiment is one of training, not to {purpose}")
        return _abstract(config, weights_optional)
    # Each host needs the features of all images, whatever mesh the config trains on.
    partitioner = make_partitioner("jit") if purpose == "features" else options.partitioner(config)
    if purpose == "train":
        check_devices(config.train.batch_size, partitioner, "train.batch_size")
        opened, source = open_both(config)
        return _training(config, opened, usable(config, source), partitioner, earlier=earlier, fitted=fitted)
    check_devices(options.eval_batch_size(config), partitioner, "eval.batch_size")
    making = _evaluation if purpose == "evaluate" else _features
    opened, source = open_both(config)
    return making(config, opened, usable(config, source), partitioner)


def build_run(workdir: Path | str) -> tuple[Model, dict[str, Any], int]:
    """Builds the model of a run with its best variables, as numpy arrays; returns them and their step.

    Raises:
      UserError: there is no run, or it has no checkpoint yet; or it is an ensemble.
    """
    workdir = Path(workdir)
    files.refuse_ensemble(workdir, "has no weights of one network, which this takes: give a run that is one")
    model = load_model(files.read_json(workdir / "model.json"))
    step, variables = read_best(workdir)
    files.note_unfinished(workdir, f"step {step}")
    if model.module.quantized:  # As it computes: training keeps what it rounds.
        rounded = with_rounded_kernels(variables, model.module.quantized, model.module.precise_kernels())
        variables = jax.device_get(rounded)
    return model, variables, step


def _training(
    given: ConfigDict,
    opened: pretrained.Weights | None,
    source: data.Source,
    partitioner: Partitioner,
    *,
    earlier: bool,
    fitted: Mapping[str, Any] | None,
) -> Experiment:
    splits = with_shared_images(source, open_splits(given, source, by_class=not earlier))
    config, notes = given, tuple[str, ...]()
    if fitted is not None:
        config = with_fitted(given, fitted, partitioner.devices)
    elif not earlier:
        model = make_model(given, opened, source.classes)
        images = len(splits.train)
        batch = fitting_batch(given, images, partitioner.devices)
        facts = auto.facts_of(
            given, model, pretrained=opened is not None, train=splits.train, batch=batch, val=len(splits.val)
        )
        resolved, chosen = auto.resolve(given, facts)
        config, notes = fit_to_size(options.write_out_preset(resolved), images, partitioner.devices)
        notes = (*chosen, *notes)
    model = make_model(config, opened, source.classes)
    check_size(model.name, model.module, training=True)
    if getattr(model.module, "single_logit", False) and config.train.loss == "binary":
        raise UserError(
            'train.loss is "binary", but the head of these weights has one logit for two classes, whose cross entropy '
            'is the binary one already: give train.loss "softmax".'
        )
    _check_monitor(config, splits, earlier)
    losses = _losses(config, len(model.classes), splits.train.labels)
    model = replace(model, several_labels=splits.train.several)
    variables, report = make_variables(config, opened, model, head=config.model.head)
    steps_per_epoch = len(splits.train) / config.train.batch_size
    new_head = has_new_head(report, model)
    plan = make_plan(config, model.module, variables["params"], steps_per_epoch=steps_per_epoch, new_head=new_head)
    plan = replace(plan, notes=(*plan.notes, *notes, *note_few(len(splits.val), config.train.monitor)))
    if plan.pruning is not None and not plan.pruning.end:
        variables = {**variables, "params": prune(variables["params"], plan.pruning)}
    experiment = Experiment(config, model, variables, report, splits, source.uri, plan, partitioner, *losses)
    return replace(experiment, given=given, earlier=earlier)


def _check_monitor(config: ConfigDict, splits: data.Splits, earlier: bool) -> None:
    monitor, several, classes = config.train.monitor, splits.train.several, len(splits.train.classes)
    if several and monitor == "top5":
        raise UserError('train.monitor is "top5", but of several labels an image there is no top-5: give another.')
    if monitor == "map" and not several:
        raise UserError('train.monitor is "map", which only several labels an image have: give another.')
    if monitor == "map" and mean_average_precision(splits.val.labels, splits.val.labels) is None:
        raise UserError(
            'train.monitor is "map", but val has no label that some of its images have and some have not: give another.'
        )
    if monitor == "top5" and not gives_top5(classes) and not earlier:
        raise UserError(
            f'train.monitor is "top5", but of {classes} classes all are among the first five: give another.'
        )


def _losses(config: ConfigDict, classes: int, labels: np.ndarray | None) -> tuple[Loss, Loss, str]:
    """Returns the losses of training and of evaluation, and what the config calls both."""
    several = labels is not None and labels.ndim == 2
    return choose_loss(config, classes, labels), evaluation_loss(config, classes, several=several), config.train.loss


def _abstract(config: ConfigDict, weights_optional: bool) -> Experiment:
    opened = _weights_at_hand(config, weights_optional)
    classes, origin = _find_classes(config, opened)
    model = make_model(config, opened, classes)
    check_size(model.name, model.module, training=True)
    config, notes = auto.resolve(config, auto.facts_of(config, model, pretrained=bool(config.model.weights)))
    report = None if opened is None else examine_weights(config, opened, model)
    shapes = nest(abstract_variables(model.module, model.pixels.size))
    # In epochs of any length.
    new_head = has_new_head(report, model)
    plan = make_plan(config, model.module, shapes["params"], steps_per_epoch=1e6, new_head=new_head)
    plan = replace(plan, notes=(*plan.notes, *notes))
    losses = _losses(config, len(classes), None)
    return Experiment(config, model, shapes, report, _no_splits(classes), origin, plan, NO_DEVICES, *losses)


def _evaluation(
    config: ConfigDict, opened: pretrained.Weights | None, source: data.Source, partitioner: Partitioner
) -> Experiment:
    if opened is None:
        raise UserError("eval needs weights: give --config.model.weights (run:WORKDIR for a run of yours).")
    location = config.model.weights
    exact = location.startswith("run:")  # A run's names are those of its data; others may write them in their own way.
    name, dataset = evaluated_split(config, source)
    classes, dataset = align_classes(opened.num_classes, opened.classes, source, dataset, exact=exact)
    model = make_model(config, opened, classes)
    variables, report = make_variables(config, opened, model, head="keep")
    corrected = in_short(source.corrections.changes(source.splits))
    notes = (*source.notes, *source.corrections.notes, *corrected)
    splits = replace(_no_splits(classes), test=dataset, notes=notes)
    # A run knows with which loss it trained.
    trained = files.run_config(Path(location.removeprefix("run:"))) if exact else config
    if exact and dataset.several and trained.train.loss in ("softmax", "focal"):
        raise UserError(
            f"{source.uri} has several labels an image, and the run was trained for one, with the loss "
            f'"{trained.train.loss}": give data with one label, or train with "binary".'
        )
    known = count_trained(location, source, dataset)
    loss = evaluation_loss(trained, len(classes), several=dataset.several)
    experiment = Experiment(config, model, variables, report, splits, name, partitioner=partitioner)
    return replace(experiment, loss=loss, eval_loss=loss, loss_name=trained.train.loss, trained_on=known)


def evaluated_split(config: ConfigDict, source: data.Source) -> tuple[str, data.Dataset]:
    """Returns the split that is evaluated, in words, and its examples: what is asked for, or what a run held out."""
    asked, location = config.eval.split or config.data.test, config.model.weights
    if not asked and location.startswith("run:"):
        held_out = _held_out(config, Path(location.removeprefix("run:")), source)
        if held_out is not None:
            return held_out
    return choose_split(asked, source)


def _held_out(config: ConfigDict, workdir: Path, source: data.Source) -> tuple[str, data.Dataset] | None:
    """Returns what a run held out of its own data: test, or else val; None of other data, or where splits are given."""
    trained = files.run_config(workdir)
    held_out = {canonical(name) for name in source.split_names} & {"test", "validation"}
    if held_out or config.data.source != trained.data.source:
        return None
    splits = open_splits(trained, source, by_class=not files.began_earlier(workdir))
    if splits.test is not None:
        return "the test split of the run", splits.test
    return "the validation split of the run, which chose its checkpoint,", splits.val


def _features(
    config: ConfigDict, opened: pretrained.Weights | None, source: data.Source, partitioner: Partitioner
) -> Experiment:
    splits = with_shared_images(source, open_splits(config, source))
    if splits.test is None:
        raise UserError(f"{source.uri} has no test split to measure on: name one with --config.data.test.")
    if splits.train.several:
        raise UserError(f"{source.uri} has several labels an image: probes measure one class an image.")
    model = make_model(config, opened, ())
    variables, report = make_variables(config, opened, model, head=config.model.head)
    return Experiment(config, model, variables, report, splits, source.uri, partitioner=partitioner)


def _weights_at_hand(config: ConfigDict, optional: bool) -> pretrained.Weights | None:
    """Opens the weights, or says how to do without them."""
    try:
        return open_weights(config)
    except UserError as error:
        if config.model.name == "auto":
            raise
        if optional:
            return None
        advice = 'To see the model without them: --config.model.weights=""'
        raise UserError.join([error], advice) from error


def _find_classes(config: ConfigDict, opened: pretrained.Weights | None) -> tuple[tuple[str, ...], str]:
    """Returns the classes of the data if they are at hand, else those of the weights; and which of the two."""
    try:
        return data.open_source(config.data.source, data_dir=config.data.data_dir).classes, config.data.source
    except UserError:
        count = opened.num_classes if opened is not None and opened.num_classes else 1000
        names = opened.classes if opened is not None and opened.classes else tuple(f"class {i}" for i in range(count))
        return (
            names,
            "the weights, since the data are not here" if opened else "nothing: neither data nor weights are here",
        )


def _no_splits(classes: tuple[str, ...]) -> data.Splits:
    """Returns splits without an example."""
    none = data.Dataset(classes, np.zeros(0, np.int32), (), _no_example)
    return data.Splits(none, none, None, ())


def _no_example(index: int) -> NoReturn:
    raise IndexError(f"there is no example {index}: no data were opened")


def check_devices(batch_size: int, partitioner: Partitioner, key: str) -> None:
    """Raises a UserError unless the batch can be shared out evenly."""
    if batch_size % partitioner.devices:
        near = -(-batch_size // partitioner.devices) * partitioner.devices
        raise UserError(
            f"{key} is {batch_size}, which cannot be shared out evenly over {partitioner.devices} devices: "
            f"give a multiple of {partitioner.devices}, such as {near}."
        )
