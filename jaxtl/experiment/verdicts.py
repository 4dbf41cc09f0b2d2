"""Whether one run is better than another, in words, by one rule wherever runs are compared.

A difference of accuracies counts by McNemar's test, and one of log losses by a paired t-test, each at 5 % after Holm's
correction for the number of runs that are compared with the baseline. Intervals are those of single comparisons: of
several, one in twenty leaves 0 out by chance.
"""

from collections.abc import Sequence

from jaxtl.experiment.comparing import Comparison, Paired

_LEVEL = 0.05


def p_of(paired: Paired, name: str, key: str) -> float:
    """Returns the p-value by Holm of a run's difference of "accuracy" or "log_loss" from the baseline."""
    return paired.adjusted[name] if key == "accuracy" else paired.of_loss[name][1]


def better(paired: Paired, name: str, key: str) -> int:
    """Returns 1 where a run is better than the baseline in "accuracy" or "log_loss", -1 where worse, else 0."""
    value = paired.differences[name][key].value
    if p_of(paired, name, key) >= _LEVEL or not value:
        return 0
    return 1 if (value > 0) == (key == "accuracy") else -1


def verdicts(comparison: Comparison) -> list[str]:
    """Returns a sentence on each run but the baseline: whether it is better or worse, for all we know."""
    paired = comparison.paired
    return [] if paired is None else [_verdict(paired, name) for name in paired.differences]


def gains(comparison: Comparison, names: Sequence[str]) -> list[str]:
    """Returns a line for each of those names: whether it is a gain over the baseline, as far as the images tell."""
    paired = comparison.paired
    return [] if paired is None else [_gain(paired, name, comparison.split) for name in names]


def p_in_words(p: float) -> str:
    """Returns a p-value for a person: below some number its digits say nothing.

    >>> p_in_words(0.01234), p_in_words(0.0)
    ('0.012', '< 1e-12')
    """
    return f"{p:.2g}" if p >= 1e-12 else "< 1e-12"


def _equals(p: float) -> str:
    text = p_in_words(p)
    return text if text.startswith("<") else f"= {text}"


def _verdict(paired: Paired, name: str) -> str:
    baseline, p = paired.baseline, _equals(p_of(paired, name, "accuracy"))
    known = "log_loss" in paired.differences[name]
    of_accuracy, of_loss = better(paired, name, "accuracy"), better(paired, name, "log_loss") if known else 0
    by_holm = " by Holm" if len(paired.differences) > 1 else ""
    test = f"McNemar's p {p}{by_holm}"
    if of_accuracy:
        first, second = (name, baseline) if of_accuracy > 0 else (baseline, name)
        value, low, high = _scaled(paired, name, "accuracy", 100 * of_accuracy)
        said = f"{first} is better than {second} by {value:.1f} points ({low:.1f} to {high:.1f}), {test}"
    else:
        value, low, high = _scaled(paired, name, "accuracy", 100)
        what = "difference of accuracies" if of_loss else "difference"
        interval = f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"
        said = f"No {what} can be told between {baseline} and {name}: accuracy {interval}, {test}"
    if not known:
        return f"{said}."
    test = f"paired t-test's p {_equals(p_of(paired, name, 'log_loss'))}{by_holm}"
    if not of_loss:
        value, low, high = _scaled(paired, name, "log_loss", 1)
        return f"{said}; log loss {value:+.4f} ({low:+.4f} to {high:+.4f}), {test}."
    value, low, high = _scaled(paired, name, "log_loss", -of_loss)
    word = "lower" if of_loss > 0 else "higher"
    return f"{said}; the log loss of {name} is {word} by {value:.4f} ({low:.4f} to {high:.4f}), {test}."


def _gain(paired: Paired, name: str, split: str) -> str:
    p_is = "Holm's p" if len(paired.differences) > 1 else "p"
    parts, kinds = [], []
    for key, words, scale, digits in (
        ("accuracy", "accuracy {} points ({} to {})", 100, 1),
        ("log_loss", "log loss {} ({} to {})", 1, 4),
    ):
        if key not in paired.differences[name]:
            continue
        kinds.append(better(paired, name, key))
        numbers = (f"{each:+.{digits}f}" for each in _scaled(paired, name, key, scale))
        told = {1: "a gain", -1: "a loss", 0: "no gain shown"}[kinds[-1]]
        parts.append(f"{words.format(*numbers)}, {p_is} {_equals(p_of(paired, name, key))}, {told}")
    word = "no gain" if max(kinds) <= 0 else "gain" if min(kinds) >= 0 else "mixed"
    return f"{word:<10}{name} against {paired.baseline} on {split}: {'; '.join(parts)}"


def _scaled(paired: Paired, name: str, key: str, scale: float) -> tuple[float, float, float]:
    """Returns the difference and its interval times a number; below 0 it turns the interval round."""
    found = paired.differences[name][key]
    low, high = sorted(scale * each + 0 for each in found.interval)
    return scale * found.value + 0, low, high
