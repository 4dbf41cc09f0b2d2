"""The mean of the weights of runs as a run of its own: chosen, measured, and written into a workdir."""

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtl.errors import UserError
from jaxtl.evaluate.plot import plot_sweep
from jaxtl.experiment import workdir as files
from jaxtl.experiment.averaging import WAYS, Average, base_of, check_members, make_average, open_experiment
from jaxtl.experiment.gain import gain_lines
from jaxtl.experiment.members import Member, check_output, read_members
from jaxtl.experiment.reporting import report_at_end
from jaxtl.experiment.scorer import Scorer
from jaxtl.experiment.untrained import Origin, measure_run, write_run

PICTURE = "wise.png"


def average_runs(workdirs: Sequence[Path], workdir: Path, by: str) -> dict[str, Any]:
    """Averages the weights of runs, and writes the mean as a run; returns what its results.json holds.

    Args:
      workdirs: of the runs.
      workdir: of the new run.
      by: one of `averaging.WAYS`.

    Raises:
      UserError: the runs do not fit each other, data or weights cannot be opened, or the workdir is taken.
    """
    started = time.perf_counter()
    members = read_members(
        workdirs, no_ensemble="has no weights of one network to average: give runs, or put them together with ensemble"
    )
    check_members(members, by)
    check_output(workdir, members)
    made = files.open_workdir(workdir, base_of(members, by).config.data.source)
    try:
        experiment, beginning = open_experiment(members, by)
        print(f"average   {by}: {WAYS[by]}", flush=True)
        scorer = Scorer(experiment)
        average = make_average(members, by, scorer, beginning, lambda line: print(f"          {line}", flush=True))
    except UserError:
        files.discard(workdir, made)
        raise
    print("\n".join(_in_words(average)), flush=True)
    made_of = ", ".join(average.weights)
    results = measure_run(experiment, scorer, average.variables, workdir, step=average.step, weights=made_of)
    results |= {
        "average": average.to_json(by, members),
        "command": _command(members, by),
        "seconds": {"total": time.perf_counter() - started},
    }
    like = base_of(members, by)
    location = f"average by {by} of {', '.join(str(member.workdir) for member in members)}"
    origin = Origin(like.config, like.facts, like.inputs(), location, [json.dumps(average.weights)])
    write_run(experiment, average.variables, origin, workdir, step=average.step, score=average.score)
    files.write_json(workdir / "results.json", results)
    if average.sweep:
        title = f"{members[-1].name}: val, from what it began with (0) to what it became (1)"
        chosen = average.weights[members[-1].name]
        plot_sweep(workdir / PICTURE, average.sweep, chosen=chosen, title=title)
        print(f"picture   {workdir / PICTURE}")
    print("\n".join(_against_the_best(members, average, scorer, workdir)))
    if experiment.config.eval.report:
        report_at_end(workdir, {"val": experiment.splits.val, "test": experiment.splits.test})
    return results


def _in_words(average: Average) -> list[str]:
    shares = ", ".join(f"{share:.3g} {name}" for name, share in average.weights.items())
    lines = [f"weights   {shares}"]
    if average.kept:
        lines.append(
            f"note      the beginning has no {', '.join(average.kept)}: these are the run's own at every alpha, and "
            "what comes before them is interpolated"
        )
    if average.images:
        lines.append(f"note      BatchNorm's statistics are those of {average.images:,} training images, unaugmented")
    return lines


def _command(members: Sequence[Member], by: str) -> str:
    runs = " ".join(shlex.quote(str(member.workdir)) for member in members)
    return f"python -m jaxtl.main average {runs} --by={by} --workdir=NEW"


def _against_the_best(members: Sequence[Member], average: Average, scorer: Scorer, workdir: Path) -> list[str]:
    """Returns the comparison with the member that val says is the best, in lines."""
    if any("hamming_loss" in metrics for metrics in average.alone.values()):
        return []

    def worth(member: Member) -> Any:
        known = [metrics for name, metrics in average.alone.items() if name.split(" step ")[0] == member.name]
        return max(map(scorer.score, known))

    ordered = sorted(members, key=worth, reverse=True)
    return gain_lines([member.workdir for member in ordered], workdir)
