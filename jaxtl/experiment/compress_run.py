"""A run made smaller or faster by a recipe, written as a run of its own, and put beside the one it was made of."""

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.attention import with_fastest_attention
from jaxtl.experiment.build import build
from jaxtl.experiment.compressed_table import TABLE, compression_table
from jaxtl.experiment.compressing import BEGINNING, Recipe, make_beginning, make_config, needs_beginning
from jaxtl.experiment.gain import gain_lines
from jaxtl.experiment.input_pipeline import load_into_memory
from jaxtl.experiment.members import Member, check_output, check_unchanged, read_members
from jaxtl.experiment.reporting import report_at_end
from jaxtl.experiment.results import closing_lines
from jaxtl.experiment.run import train_run
from jaxtl.experiment.scorer import Scorer
from jaxtl.experiment.untrained import Origin, measure_run, write_run


def compress_run(workdir: Path, output: Path, recipe: Recipe, overrides: Mapping[str, str]) -> dict[str, Any]:
    """Compresses a run by a recipe into a new run, and prints both side by side; returns what its results.json holds.

    With fine-tuning it is a run like any other: stopped, it goes on when the same is asked again.

    Args:
      workdir: of the finished run.
      output: of the new one.
      recipe: what is asked for.
      overrides: keys of the config of the fine-tuning, as on the command line.

    Raises:
      Stopped: the fine-tuning was asked to; its state is saved.
      UserError: the run cannot be compressed so, its data or weights cannot be opened, or the output is taken.
    """
    recipe.check()
    member = read_members([workdir])[0]
    config = make_config(member, recipe, overrides)
    _check_output(output, member, recipe)
    print(f"compress  {recipe.in_words()}", flush=True)
    made = files.open_workdir(output, config.data.source)
    try:
        if needs_beginning(recipe):
            config = make_beginning(config, member, recipe, output)
        results = train_run(config, output) if recipe.length else _round(config, member, recipe, output)
    except UserError:
        if not files.has_checkpoints(output):
            (output / BEGINNING).unlink(missing_ok=True)
            files.discard(output, made)
        raise
    lines, table = compression_table(member.workdir, output)
    results |= {"compress": {"of": str(workdir), "recipe": recipe.name, "table": table}}
    results["command"] = _command(workdir, recipe, overrides)
    files.write_json(output / "results.json", results)
    files.write_whole(output / TABLE, "\n".join(lines) + "\n")
    print("\n".join(["", *lines, "", *gain_lines([member.workdir], output)[-1:]]))
    return results


def _check_output(output: Path, member: Member, recipe: Recipe) -> None:
    """Sees that the new run may be written there; one that stopped while it was fine-tuned goes on."""
    if recipe.length and not (output / "results.json").exists() and output.resolve() != member.workdir.resolve():
        return
    check_output(output, [member], flag="--output")


def _round(config: ConfigDict, member: Member, recipe: Recipe, output: Path) -> dict[str, Any]:
    """Writes a run that is not fine-tuned: what the config describes before its first step."""
    started = time.perf_counter()
    built = build(config)
    check_unchanged(member, built.splits)
    experiment = with_fastest_attention(load_into_memory(built))
    scorer = Scorer(experiment)
    variables, step = jax.device_get(experiment.variables), int(member.results["best_step"])
    origin = f"{recipe.name} of {member.workdir}"
    score = scorer.score(scorer.metrics(variables))
    results = measure_run(experiment, scorer, variables, output, step=step, weights=origin)
    results["seconds"] = {"total": time.perf_counter() - started}
    facts = experiment.model.facts()
    write_run(experiment, variables, Origin(config, facts, member.inputs(), origin), output, step=step, score=score)
    files.write_json(output / "results.json", results)
    if experiment.config.eval.report:
        report_at_end(output, {"val": experiment.splits.val, "test": experiment.splits.test})
    print("\n".join(closing_lines(results, output)), flush=True)
    return results


def _command(workdir: Path, recipe: Recipe, overrides: Mapping[str, str]) -> str:
    flags = f" --recipe={recipe.name}"
    flags += f" --sparsity={recipe.sparsity:g}" * (recipe.name == "prune") + f" --ramp={recipe.ramp:g}" * bool(
        recipe.ramp
    )
    flags += f" --flops={recipe.flops:g}" * (recipe.name == "structure") + f" --epochs={recipe.length:g}"
    flags += f" --scope={recipe.scope}" * (recipe.name in ("prune", "2:4"))
    flags += "".join(f" --config.{key}={shlex.quote(value)}" for key, value in overrides.items())
    return f"python -m jaxtl.main compress --workdir={shlex.quote(str(workdir))}{flags} --output=NEW"
