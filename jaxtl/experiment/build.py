"""What a run is made of: opened with its data, or outlined without them."""

from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from jaxtl import data, pretrained
from jaxtl.errors import UserError
from jaxtl.experiment import setup
from jaxtl.experiment.training_plan import Plan, make_plan
from jaxtl.pretrained.load import abstract_variables
from jaxtl.trees import nest


@dataclass(frozen=True)
class Parts:
    """A run as its config describes it, and what it starts from.

    Attributes:
      splits: the data.
      model: for their classes.
      variables: of the model, to start from.
      load_report: where they come from; None without weights.
      plan: what trains, and how.
      steps_per_epoch: batches that hold as many examples as the training split.
    """

    splits: data.Splits
    model: setup.Model
    variables: dict[str, Any]
    load_report: pretrained.LoadReport | None
    plan: Plan
    steps_per_epoch: float


def open_parts(config: ConfigDict) -> Parts:
    """Opens data and weights, and makes the rest of them.

    Raises:
      UserError: what the user can fix, in any of it.
    """
    opened, source = setup.open_both(config)
    splits = data.choose_splits(source, train=config.data.train, val=config.data.val, test=config.data.test)
    model = setup.make_model(config, opened, source.classes)
    variables, load_report = setup.variables_for(config, opened, model)
    steps_per_epoch = len(splits.train) / config.train.batch_size
    new_head = setup.has_new_head(load_report, model)
    plan = make_plan(config, model.module, variables["params"], steps_per_epoch=steps_per_epoch, new_head=new_head)
    return Parts(splits, model, variables, load_report, plan, steps_per_epoch)


@dataclass(frozen=True)
class Outline:
    """A run as far as it is known without data, and without the numbers of the weights.

    Attributes:
      model: for the classes of the data if they are at hand, else for those of the weights.
      classes_from: which of the two, in words.
      shapes: of the variables.
      load_report: where they would come from; None without weights.
      plan: what trains, and how, in epochs of any length.
    """

    model: setup.Model
    classes_from: str
    shapes: dict[str, Any]
    load_report: pretrained.LoadReport | None
    plan: Plan


def outline(config: ConfigDict, opened: pretrained.Weights | None) -> Outline:
    """Makes the parts of a run from shapes alone.

    Args:
      config: the config.
      opened: the weights; None where there are none, or none at hand.
    """
    classes, origin = _find_classes(config, opened)
    model = setup.make_model(config, opened, classes)
    load_report = None if opened is None else setup.examine(config, opened, model)
    shapes = nest(abstract_variables(model.module, model.pixels.size))
    new_head = setup.has_new_head(load_report, model)
    plan = make_plan(config, model.module, shapes["params"], steps_per_epoch=1e6, new_head=new_head)
    return Outline(model, origin, shapes, load_report, plan)


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
