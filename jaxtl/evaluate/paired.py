"""Whether one model is better than another on the same images: McNemar's test, a t-test, and the paired bootstrap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxtl.evaluate.bootstrap import METRICS, RESAMPLES, Judged, intervals_of, metrics_of_draws, resampled_metrics


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of whether two models are right equally often.

    Attributes:
      only_first: images that the first model alone has right.
      only_second: images that the second alone has right.
      p: probability of counts as uneven as these, or more, if both are right equally often.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Returns McNemar's test in its exact form, two-sided.

    Only the discordant images count, and of equally good models each has half of them right: the smaller count is
    binomial. The normal approximation with its continuity correction (McNemar, 1947) approximates this value, which
    costs nothing however many images there are. It keeps its level, and is conservative (Fagerland, Lydersen and Laake,
    2013).

    Args:
      first: whether the first model has each image right [N].
      second: whether the second has [N].

    >>> mcnemar(np.array([True] * 9 + [False]), np.array([False] * 9 + [True]))
    McNemar(only_first=9, only_second=1, p=0.021484375)
    """
    # Here, for what only a comparison should pay.
    from scipy.special import bdtr

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    p = min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5))) if discordant else 1.0
    return McNemar(only_first, only_second, p)


def paired_t_test(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the p-value, two-sided, of the paired t-test of whether two models have the same mean.

    Args:
      first: what the first has of each image, such as its log loss [N].
      second: what the second has [N].

    >>> round(paired_t_test(np.array([0.3, 0.5, 0.4, 0.9]), np.array([0.1, 0.2, 0.3, 0.4])), 4)
    0.0486
    """
    from scipy.special import stdtr

    differences = second - first
    count, deviation = len(differences), differences.std(ddof=1) if len(differences) > 1 else 0.0
    if not deviation:  # Of one image nobody can tell.
        return float(count < 2 or not differences.any())
    return float(2 * stdtr(count - 1, -abs(differences.mean()) / (deviation / count**0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values that hold for all tests together, in the same order (Holm, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True)
class Difference:
    """How much higher a metric of a second model is than that of a first.

    Attributes:
      value: the difference on the images.
      interval: 95 %, [low, high].
    """

    value: float
    interval: list[float]


def paired_differences(
    models: Sequence[Judged], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[dict[str, Difference]]:
    """Returns how each model but the first differs from the first, with percentile intervals by a paired bootstrap.

    Each resample draws the same images for all models, so what is hard for all of them cancels out. Intervals are those
    of single comparisons. The metrics are those of `bootstrap.METRICS`; balanced accuracy and macro F1 go over the
    classes that there are images of.

    Args:
      models: what each said of the same N images, at least one, in the same order.
      resamples: number of draws.
      seed: of the draws.

    Returns:
      For each model but the first, metric -> difference.
    """
    everything = np.arange(len(models[0].labels))[None]
    first, *others = (metrics_of_draws(judged, everything)[:, 0] for judged in models)
    drawn = resampled_metrics(models, resamples=resamples, seed=seed)
    found = []
    for values, of_draws in zip(others, drawn[1:], strict=True):
        intervals = intervals_of(of_draws - drawn[0])
        differences = zip(METRICS, values - first, strict=True)
        found.append({name: Difference(float(value), intervals[name]) for name, value in differences})
    return found


def plain_metrics(judged: Judged) -> dict[str, float]:
    """Returns the metrics of `bootstrap.METRICS` on the images."""
    values = metrics_of_draws(judged, np.arange(len(judged.labels))[None])[:, 0]
    return {name: float(value) for name, value in zip(METRICS, values, strict=True)}


def recalls(judged: Judged) -> np.ndarray:
    """Returns the recall of each class [C], NaN without images."""
    count = np.bincount(judged.labels, minlength=judged.classes)
    hits = np.bincount(judged.labels[judged.correct], minlength=judged.classes)
    return np.divide(hits, count, out=np.full(judged.classes, np.nan), where=count > 0)


def only_right(right: Judged, wrong: Judged) -> np.ndarray:
    """Returns the images that one model has right and the other wrong, the surest mistakes first [n]."""
    found = np.flatnonzero(right.correct & ~wrong.correct)
    return found[np.argsort(-wrong.confidences[found], kind="stable")]
