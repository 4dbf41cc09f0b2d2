"""Means of the weights of runs, chosen on val: soups, WiSE-FT, and the checkpoints of one run."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxtl.checkpoints.manager import Checkpoints, read_best
from jaxtl.checkpoints.retention import Score
from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.attention import with_fastest_attention
from jaxtl.experiment.build import Experiment, build
from jaxtl.experiment.head_start import start_from_probe
from jaxtl.experiment.input_pipeline import load_into_memory, read_images
from jaxtl.experiment.members import Member, check_architecture, check_classes, check_same_images, check_unchanged
from jaxtl.experiment.scorer import Scorer
from jaxtl.train.averaging import greedy_members, interpolate, weighted_mean
from jaxtl.train.batch_statistics import differing_modules

WAYS = {
    "uniform": "the mean of all runs",
    "greedy": "the mean of those runs that, taken in from the best on, do not make it worse on val",
    "wise": "the best point on val between the weights that a run began with, or those of a first run, and its own",
    "checkpoints": "the mean of the checkpoints that one run has kept",
}
ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))
"""What WiSE-FT tries: from the beginning (0) to the end (1)."""


@dataclass(frozen=True)
class Ingredient:
    """Weights that an average is made of.

    Attributes:
      name: of the run, with the step where a run gives several.
      step: of the checkpoint; -1 for the weights that a run began with.
      variables: as numpy arrays.
    """

    name: str
    step: int
    variables: Mapping[str, Any]


@dataclass(frozen=True)
class Beginning:
    """What a run began with.

    Attributes:
      variables: as arrays.
      new: paths of the leaves that no weights had: of a new head.
    """

    variables: Mapping[str, Any]
    new: Sequence[str]


@dataclass(frozen=True)
class Average:
    """A mean of weights.

    Attributes:
      variables: of the mean.
      step: of the latest checkpoint in it.
      score: on val.
      weights: name -> its share; 0 of what was left out.
      alone: name -> metrics on val of that ingredient alone.
      sweep: of WiSE-FT, alpha and metrics on val for each point that was tried.
      kept: leaves that are those of the fine-tuned run, since the beginning has none: its head.
      images: how many images each of BatchNorm's statistics was computed of; 0 where there was nothing to compute.
    """

    variables: Mapping[str, Any]
    step: int
    score: Score
    weights: Mapping[str, float]
    alone: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sweep: Sequence[Mapping[str, float]] = ()
    kept: Sequence[str] = ()
    images: int = 0

    def to_json(self, by: str, members: Sequence[Member]) -> dict[str, Any]:
        """Gives what results.json holds of it."""
        found = {
            "by": by,
            "runs": [str(member.workdir) for member in members],
            "weights": dict(self.weights),
            "alone": {name: dict(metrics) for name, metrics in self.alone.items()},
            "batch_norm_images": self.images,
        }
        wise = {"sweep": [dict(point) for point in self.sweep], "kept": list(self.kept)} if self.sweep else {}
        return found | wise


def base_of(members: Sequence[Member], by: str) -> Member:
    """Returns the run whose config, data and facts a mean takes over: the first, or of WiSE-FT what it became."""
    return members[-1] if by == "wise" else members[0]


def check_members(members: Sequence[Member], by: str) -> None:
    """Sees that runs can be averaged so, from their small files alone.

    Raises:
      UserError: they cannot.
    """
    wanted = {"wise": (1, 2), "checkpoints": (1, 1)}.get(by, (2, None))
    if len(members) < wanted[0] or (wanted[1] and len(members) > wanted[1]):
        words = {
            "wise": "one run, which began with pretrained weights, or two: the beginning first, then what it became",
            "checkpoints": "one run",
        }.get(by, "two runs or more")
        raise UserError(f"--by={by} takes {words}: {len(members)} are given.")
    check_classes(members, ordered=True)
    check_architecture(members)
    check_same_images(members)


def open_experiment(members: Sequence[Member], by: str) -> tuple[Experiment, Beginning | None]:
    """Builds the experiment that averages are judged in, with its images in memory.

    Args:
      members: the runs.
      by: one of WAYS.

    Returns:
      The experiment, and for WiSE-FT of one run the weights that it began with.

    Raises:
      UserError: data or weights cannot be opened, or are no longer those of the run.
    """
    last = base_of(members, by)
    config = copy.deepcopy(last.config)
    config.train.parallel = "jit"  # In which a batch has one set of statistics, whatever the devices.
    start = None
    build_as = partial(build, earlier=files.began_earlier(last.workdir), fitted=files.began_fitted(last.workdir))
    if by == "wise" and len(members) == 1:
        if not config.model.weights:
            raise UserError(
                f"{last.name} began with no weights, so there is nothing to interpolate from: give two runs, the "
                "beginning first."
            )
        start = _beginning(last, build_as(config))
    config.model.weights, config.model.head = f"run:{last.workdir}", "keep"
    built = build_as(config)
    check_unchanged(last, built.splits)
    return with_fastest_attention(load_into_memory(built)), start


def _beginning(member: Member, began: Experiment) -> Beginning:
    """Returns what a run began with, of the experiment that it was built as.

    Raises:
      UserError: its weights are others now, by their digests.
    """
    assert began.load_report is not None
    before = member.inputs()
    for name, digest in began.load_report.sha256.items():
        if before.get(f"weights {name}", digest) != digest:
            raise UserError(f"{name} is no longer the file that {member.name} began with: put that one back.")
    if not files.head_start(member.workdir):
        return Beginning(jax.device_get(began.variables), tuple(began.load_report.initialised))
    began = load_into_memory(began)
    began, _ = start_from_probe(began, read_images(began))
    return Beginning(jax.device_get(began.variables), ())


def make_average(
    members: Sequence[Member], by: str, scorer: Scorer, start: Beginning | None, say: Callable[[str], None]
) -> Average:
    """Averages the weights of runs.

    Args:
      members: the runs.
      by: one of WAYS.
      scorer: of the experiment.
      start: what `open_experiment` returned beside it.
      say: takes a line for each thing that was measured.

    Raises:
      UserError: a checkpoint cannot be read, or a run has too few.
    """
    if by == "checkpoints":
        return _uniform(_checkpoints_of(members[0]), scorer, say)
    ingredients = [Ingredient(member.name, *read_best(member.workdir)) for member in members]
    if by == "wise":
        return _wise(ingredients, scorer, start, say)
    return _uniform(ingredients, scorer, say) if by == "uniform" else _greedy(ingredients, scorer, say)


def _checkpoints_of(member: Member) -> list[Ingredient]:
    with Checkpoints(member.workdir / "checkpoints", read_only=True) as checkpoints:
        # That of step 0 has trained nothing.
        steps = [step for step in checkpoints.steps() if step] or checkpoints.steps()
        if len(steps) < 2:
            raise UserError(
                f"{member.name} has kept one checkpoint only, of step {steps[0]}: train with "
                "--config.train.keep_latest=5, as an example."
            )
        return [Ingredient(f"{member.name} step {step}", step, checkpoints.read_variables(step)) for step in steps]


def _measure_alone(
    ingredients: Sequence[Ingredient], scorer: Scorer, say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    alone = {}
    for each in ingredients:
        alone[each.name] = scorer.metrics(each.variables)
        say(_line(each.name, alone[each.name]))
    return alone


def _mean_of(ingredients: Sequence[Ingredient], scorer: Scorer) -> dict[str, Any]:
    """Returns the mean of some ingredients, with statistics of its own."""
    trees = [each.variables for each in ingredients]
    mean = weighted_mean(trees)
    return scorer.with_statistics(mean, differing_modules(trees)) if len(trees) > 1 else mean


def _uniform(ingredients: Sequence[Ingredient], scorer: Scorer, say: Callable[[str], None]) -> Average:
    alone = _measure_alone(ingredients, scorer, say)
    variables = _mean_of(ingredients, scorer)
    metrics = scorer.metrics(variables)
    say(_line(f"mean of {len(ingredients)}", metrics))
    weights = {each.name: 1 / len(ingredients) for each in ingredients}
    step = max(each.step for each in ingredients)
    return Average(variables, step, scorer.score(metrics), weights, alone, images=scorer.images)


def _greedy(ingredients: Sequence[Ingredient], scorer: Scorer, say: Callable[[str], None]) -> Average:
    alone = _measure_alone(ingredients, scorer, say)

    def score(chosen: Sequence[int]) -> Score:
        metrics = scorer.metrics(_mean_of([ingredients[index] for index in chosen], scorer))
        say(_line("mean of " + ", ".join(ingredients[index].name for index in chosen), metrics))
        return scorer.score(metrics)

    chosen = greedy_members([scorer.score(alone[each.name]) for each in ingredients], score)
    taken = [ingredients[index] for index in chosen]
    variables = _mean_of(taken, scorer)
    weights = {each.name: (1 / len(taken) if each in taken else 0.0) for each in ingredients}
    step = max(each.step for each in taken)
    images = scorer.images if len(taken) > 1 else 0
    return Average(variables, step, scorer.score(scorer.metrics(variables)), weights, alone, images=images)


def _wise(
    ingredients: Sequence[Ingredient], scorer: Scorer, start: Beginning | None, say: Callable[[str], None]
) -> Average:
    end, kept = ingredients[-1], start.new if start else ()
    begin = ingredients[0] if start is None else Ingredient("its beginning", -1, start.variables)
    modules = differing_modules([begin.variables, end.variables])
    sweep, best, found = list[dict[str, float]](), (), dict[str, Any]()
    for alpha in ALPHAS:
        variables = interpolate(begin.variables, end.variables, alpha, keep=kept)
        if alpha not in (0, 1):  # The ends are networks as they were trained.
            variables = scorer.with_statistics(variables, modules)
        metrics = scorer.metrics(variables)
        say(_line(f"alpha {alpha:.1f}", metrics))
        sweep.append({"alpha": alpha, **metrics})
        score = tuple(np.atleast_1d(scorer.score(metrics)).tolist())
        if score >= best:  # Among equals the one that learnt most.
            best, found = score, {"alpha": alpha, "variables": variables}
    alpha = found["alpha"]
    weights = {begin.name: round(1 - alpha, 1), end.name: alpha}
    alone = {begin.name: _without_alpha(sweep[0]), end.name: _without_alpha(sweep[-1])}
    images = scorer.images if alpha not in (0, 1) else 0
    return Average(found["variables"], end.step, best, weights, alone, sweep, kept, images)


def _without_alpha(point: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in point.items() if key != "alpha"}


def _line(name: str, metrics: Mapping[str, float]) -> str:
    return f"{name:<24}val  accuracy {100 * metrics['accuracy']:5.1f} %  loss {metrics['loss']:.4f}"
