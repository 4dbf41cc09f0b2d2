"""Whether what was put together is better than its best member: tables of paired differences, and a plain sentence."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtl.evaluate.paired import Difference
from jaxtl.experiment.comparing import Comparison, compare, read_runs
from jaxtl.experiment.comparison_tables import differences_table, headings, metrics_table, to_markdown


def gain_lines(members: Sequence[Path], workdir: Path) -> list[str]:
    """Compares a workdir with those that it was made of, the baseline first, from their predictions; returns lines."""
    runs = read_runs([*members, workdir])
    comparison = compare(runs)
    return [*table_lines(comparison), *verdicts(comparison, [runs[-1].name])]


def table_lines(comparison: Comparison) -> list[str]:
    """Returns the tables of metrics and of paired differences, in Markdown."""
    titles, differences = headings(comparison), differences_table(comparison)
    lines = ["", titles["metrics"] + ":", "", to_markdown(metrics_table(comparison)), ""]
    if differences is not None:
        lines += [titles["differences"] + ":", "", to_markdown(differences), ""]
    return lines + [f"note      {note}" for note in comparison.notes]


def verdicts(comparison: Comparison, names: Sequence[str]) -> list[str]:
    """Returns a sentence for each of those names: whether it is better than the baseline, as far as the images tell."""
    paired = comparison.paired
    if paired is None:
        return []
    return [verdict(name, paired.baseline, comparison.split, paired.differences[name]) for name in names]


def verdict(name: str, baseline: str, split: str, of: Mapping[str, Difference]) -> str:
    """Returns whether one is better than the other, by the intervals of accuracy and log loss.

    >>> verdict("soup", "a", "test", {"accuracy": Difference(0.02, [0.004, 0.035])})
    'gain      soup against a on test: accuracy +2.0 points (+0.4 to +3.5), a gain'
    """
    parts, kinds = [], []
    for key, words, scale, digits, better in (
        ("accuracy", "accuracy {} points ({} to {})", 100, 1, 1),
        ("log_loss", "log loss {} ({} to {})", 1, 4, -1),
    ):
        if key not in of:
            continue
        low, high = of[key].interval
        clear = 1 if low > 0 else -1 if high < 0 else 0
        kinds.append(better * clear)
        numbers = (f"{scale * each + 0:+.{digits}f}" for each in (of[key].value, low, high))
        parts.append(words.format(*numbers) + {1: ", a gain", -1: ", a loss", 0: ", no gain shown"}[better * clear])
    word = "no gain" if max(kinds) <= 0 else "gain" if min(kinds) >= 0 else "mixed"
    return f"{word:<10}{name} against {baseline} on {split}: {'; '.join(parts)}"
