"""Whether what was put together is better than its best member: tables of paired differences, and a plain sentence."""

from collections.abc import Sequence
from pathlib import Path

from jaxtl.experiment.comparing import Comparison, compare, read_runs
from jaxtl.experiment.comparison_tables import differences_table, headings, metrics_table, to_markdown
from jaxtl.experiment.verdicts import gains


def gain_lines(members: Sequence[Path], workdir: Path) -> list[str]:
    """Compares a workdir with those that it was made of, the baseline first, from their predictions; returns lines."""
    runs = read_runs([*members, workdir])
    comparison = compare(runs)
    return [*table_lines(comparison), *gains(comparison, [runs[-1].name])]


def table_lines(comparison: Comparison) -> list[str]:
    """Returns the tables of metrics and of paired differences, in Markdown."""
    titles, differences = headings(comparison), differences_table(comparison)
    lines = ["", titles["metrics"] + ":", "", to_markdown(metrics_table(comparison)), ""]
    if differences is not None:
        lines += [titles["differences"] + ":", "", to_markdown(differences), ""]
    return lines + [f"note      {note}" for note in comparison.notes]
