"""A comparison of runs as tables and as JSON: what the screen, compare.md and compare.json hold, and the page shows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxtl.evaluate.metrics import percent_interval
from jaxtl.evaluate.paired import Difference
from jaxtl.experiment.comparing import Comparison, Paired, Run
from jaxtl.experiment.verdicts import p_in_words, verdicts
from jaxtl.report.page import number, percent
from jaxtl.train.screen import duration


@dataclass(frozen=True)
class Cell:
    """One place of a table.

    Attributes:
      text: what it says.
      more: what it says in a second line, where there is room for one: an interval.
      value: what a column is sorted by, where it is not the text; "" where there is none.
      kind: "good" or "bad" where a difference is one, whatever chance did; else "".
    """

    text: str
    more: str = ""
    value: float | str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      header: titles of the columns.
      rows: of cells.
      numeric: whether each column is one of numbers.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: Sequence[bool]


@dataclass(frozen=True)
class _Metric:
    key: str
    title: str
    share: bool = True
    higher_is_better: bool = True


_METRICS = (
    _Metric("accuracy", "accuracy"),
    _Metric("balanced_accuracy", "balanced accuracy"),
    _Metric("macro_f1", "macro F1"),
    _Metric("top5", "top-5"),
    _Metric("log_loss", "log loss", share=False, higher_is_better=False),
    _Metric("ece", "ECE", higher_is_better=False),
    _Metric("brier", "Brier", share=False, higher_is_better=False),
    _Metric("macro_roc_auc", "macro ROC-AUC", share=False),
)
_NONE = Cell("–")


def metrics_table(comparison: Comparison) -> Table:
    """Returns runs x metrics with their intervals, of the metrics that any run has."""
    shown = [metric for metric in _METRICS if any(metric.key in of for of in comparison.metrics.values())]
    rows = []
    for run in comparison.runs:
        of = comparison.metrics[run.name]
        count = (
            Cell(f"{of['count']:,}", value=of["count"])
            if "count" in of
            else Cell("" if run.results else "not finished")
        )
        rows.append([Cell(run.name), count, *(_metric_cell(metric, of) for metric in shown)])
    return Table(["run", "images", *(metric.title for metric in shown)], rows, [False] + [True] * (1 + len(shown)))


def _metric_cell(metric: _Metric, of: Mapping[str, Any]) -> Cell:
    value = of.get(metric.key)
    if value is None:
        return _NONE
    interval = of.get("intervals", {}).get(metric.key)
    if metric.key == "accuracy":  # As on the run's own page: Wilson's.
        interval = of.get("accuracy_interval", interval)
    told = ""
    # Where all images are right, the bootstrap knows of no others: that is no interval.
    if interval is not None and interval[0] < interval[1]:
        told = percent_interval(interval) if metric.share else f"{interval[0]:.3f} to {interval[1]:.3f}"
    return Cell(percent(value) if metric.share else f"{value:.4f}", told and f"({told})", value)


def differences_table(comparison: Comparison) -> Table | None:
    """Returns other runs x differences from the baseline, in points for shares, and McNemar's test; None without."""
    paired = comparison.paired
    if paired is None:
        return None
    several = len(paired.differences) > 1
    shown = [metric for metric in _METRICS if any(metric.key in of for of in paired.differences.values())]
    titles = [f"{metric.title}, points" if metric.share else metric.title for metric in shown]
    of_test = ["McNemar's p", *(["Holm's p"] if several else []), "right in baseline only", "right in run only"]
    rows = []
    for name, found in paired.differences.items():
        test = paired.tests[name]
        values = [test.p, *([paired.adjusted[name]] if several else [])]
        tested = [Cell(p_in_words(p), value=p) for p in values]
        tested += [Cell(f"{count:,}", value=count) for count in (test.only_first, test.only_second)]
        rows.append([Cell(name), *(_difference_cell(metric, found[metric.key]) for metric in shown), *tested])
    header = ["run", *titles, *of_test]
    return Table(header, rows, [False] + [True] * (len(header) - 1))


def _difference_cell(metric: _Metric, found: Difference) -> Cell:
    scale, digits = (100, 1) if metric.share else (1, 4)
    value, low, high = (f"{scale * each + 0:+.{digits}f}" for each in (found.value, *found.interval))
    kind = ""
    if found.interval[0] > 0 or found.interval[1] < 0:
        kind = "good" if (found.value > 0) == metric.higher_is_better else "bad"
    return Cell(value, f"({low} to {high}){'*' if kind else ''}", found.value, kind)


def config_table(comparison: Comparison) -> Table:
    """Returns keys x runs, of the keys of the configs that differ."""
    names = [run.name for run in comparison.runs if not run.members]
    rows = [
        [Cell(key), *(Cell(json.dumps(values[name], ensure_ascii=False)) for name in names)]
        for key, values in comparison.config.items()
    ]
    return Table(["key", *names], rows, [False] * (1 + len(names)))


def facts_table(comparison: Comparison) -> Table:
    """Returns what runs are and what they cost: facts x runs, without those that no run has."""
    facts = {run.name: _facts(run) for run in comparison.runs}
    keys = dict.fromkeys(key for each in facts.values() for key in each)
    rows = [[Cell(key), *(Cell(each.get(key, "–")) for each in facts.values())] for key in keys]
    return Table(["", *facts], rows, [False] * (1 + len(facts)))


def _facts(run: Run) -> dict[str, str]:
    results, found = run.results, {"workdir": str(run.workdir)}
    asked = {"model": ("model", "name"), "weights": ("model", "weights"), "data": ("data", "source")}
    for key, (section, name) in asked.items():
        # What a run has found out, else what it was asked for.
        value = results.get(key, run.config.get(section, {}).get(name))
        if value is not None:
            found[key] = str(value) or "none"
    if "loss" in results:
        found["loss"] = str(results["loss"])
    if "split" in results:
        found["measured by eval"] = str(results["split"])
    parameters, seconds, cost = (results.get(key, {}) for key in ("parameters", "seconds", "cost"))
    found |= {f"parameters, {key}": number(parameters[key]) for key in ("total", "trainable") if key in parameters}
    found |= {key.replace("_", " "): number(results[key]) for key in ("steps", "best_step") if key in results}
    found |= {f"time, {key}": duration(seconds[key]) for key in ("total", "train", "evaluate") if key in seconds}
    if "images_per_second" in results.get("train", {}):
        found["images/s in training"] = number(results["train"]["images_per_second"])
    if "step_gflop" in cost:
        found["GFLOP a step"] = number(cost["step_gflop"])
    if "peak_bytes" in cost:
        found["memory of a step, MiB"] = f"{cost['peak_bytes'] / 2**20:,.0f}"
    return found


def to_markdown(table: Table) -> str:
    """Returns a table in Markdown, whose columns are aligned for the screen, too."""
    cells = [list(table.header), *([f"{cell.text} {cell.more}".rstrip() for cell in row] for row in table.rows)]
    cells = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in cells]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(table.header))]

    def line(texts: Sequence[str]) -> str:
        places = zip(texts, widths, table.numeric, strict=True)
        return f"| {' | '.join(text.rjust(width) if right else text.ljust(width) for text, width, right in places)} |"

    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, table.numeric, strict=True)]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def headings(comparison: Comparison) -> dict[str, str]:
    """Returns the lines above the tables: of "metrics", "differences" and "config"."""
    paired = comparison.paired
    found = {
        "metrics": f"Metrics on {comparison.split}, with 95 % intervals (Wilson's of the accuracy, else bootstrap)"
    }
    if paired is not None:
        found["differences"] = (
            f"Differences from {paired.baseline} on the same {len(paired.aligned.names):,} images, with 95 % intervals "
            "(paired bootstrap; * where it does not contain 0), and McNemar's exact test"
        )
    found["config"] = _config_heading(comparison)
    return found


def _config_heading(comparison: Comparison) -> str:
    if comparison.config:
        return "What differs in the configs"
    ensembles = [run.name for run in comparison.runs if run.members]
    if len(comparison.runs) - len(ensembles) > 1 or not ensembles:
        return "The configs do not differ"
    are = "are ensembles" if len(ensembles) > 1 else "is an ensemble"
    return f"No configs are compared: {' and '.join(ensembles)} {are}"


def to_text(comparison: Comparison) -> str:
    """Returns the comparison in Markdown: what is printed, and what compare.md holds."""
    titles = headings(comparison)
    parts = [titles["metrics"] + ":", to_markdown(metrics_table(comparison))]
    differences = differences_table(comparison)
    if differences is not None:
        parts += [titles["differences"] + ":", to_markdown(differences)]
    parts += [titles["config"] + (":" if comparison.config else ".")]
    parts += [to_markdown(config_table(comparison))] if comparison.config else []
    if comparison.notes:
        parts.append("\n".join(f"- note: {note}" for note in comparison.notes))
    parts += verdicts(comparison)
    return "\n\n".join(parts) + "\n"


def tests_to_json(paired: Paired, name: str) -> dict[str, Any]:
    """Returns the tests of a run against the baseline: "mcnemar", and where log losses are compared "t_test"."""
    found = {"mcnemar": {**asdict(paired.tests[name]), "holm_p": paired.adjusted[name]}}
    if "log_loss" in paired.differences[name]:
        found["t_test"] = dict(zip(("p", "holm_p"), paired.of_loss[name], strict=True))
    return found


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Returns what compare.json holds."""
    paired = comparison.paired
    found: dict[str, Any] = {
        "split": comparison.split,
        "images": None if paired is None else len(paired.aligned.names),
        "baseline": None if paired is None else paired.baseline,
        "notes": list(comparison.notes),
        "verdicts": verdicts(comparison),
        "runs": {
            run.name: {
                "workdir": str(run.workdir),
                "finished": bool(run.results),
                "metrics": comparison.metrics[run.name],
                **{key: run.results[key] for key in ("seconds", "parameters", "cost") if key in run.results},
            }
            for run in comparison.runs
        },
        "differences": {},
        "config": comparison.config,
    }
    if paired is not None:
        found["differences"] = {
            name: {
                **{key: asdict(each) for key, each in of.items()},
                **tests_to_json(paired, name),
            }
            for name, of in paired.differences.items()
        }
    return found
