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
from jaxtl.experiment.compress_recipe import Recipe
from jaxtl.experiment.compressed_table import TABLE, compression_table
from jaxtl.experiment.compressing import BEGINNING, begun_config, make_beginning, make_config, needs_beginning
from jaxtl.experiment.gain import gain_lines
from jaxtl.experiment.input_pipeline import load_into_memory
from jaxtl.experiment.members import Member, check_apart, check_output, check_unchanged, read_members
from jaxtl.experiment.reporting import report_at_end
from jaxtl.experiment.results import closing_lines
from jaxtl.experiment.run import train_run
from jaxtl.experiment.scorer import Scorer
from jaxtl.experiment.untrained import Origin, measure_run, write_run

NOTE = "compress.json"
"""What was asked for, beside the run that is made: with the same it goes on."""


def compress_run(workdir: Path, output: Path, recipe: Recipe, overrides: Mapping[str, str]) -> dict[str, Any]:
    """Compresses a run by a recipe into a new run, and prints both side by side; returns what its results.json holds.

    With fine-tuning it is a run like any other: stopped, it goes on when the same is asked again, be it only to be put
    beside the old one. What only rounds begins again.

    Args:
      workdir: of the finished run.
      output: of the new one.
      recipe: what is asked for.
      overrides: keys of the config of the fine-tuning, as on the command line.

    Raises:
      Stopped: the fine-tuning was asked to; its state is saved.
      UserError: the run cannot be compressed so, its data or weights cannot be opened, or the output is taken.
    """
    member = read_members([workdir])[0]
    config = make_config(member, recipe, overrides)
    asked = {"of": str(member.workdir.resolve()), "recipe": recipe.name, **recipe.options()}
    _check_output(output, member, asked)
    print(f"compress  {recipe.in_words()}", flush=True)
    made = files.open_workdir(output, config.data.source)
    try:
        files.write_json(output / NOTE, asked)
        if needs_beginning(recipe):
            began = recipe.epochs and _has_begun(output)
            config = begun_config(config, recipe, output) if began else make_beginning(config, member, recipe, output)
        results = train_run(config, output) if recipe.epochs else _round(config, member, recipe, output)
    except UserError:
        if not files.has_checkpoints(output):
            for name in (BEGINNING, NOTE):
                (output / name).unlink(missing_ok=True)
            files.discard(output, made)
        raise
    lines, table = compression_table(member.workdir, output)
    results |= {"compress": {"of": str(workdir), "recipe": recipe.name, "table": table}}
    results["command"] = _command(workdir, recipe, overrides)
    files.write_whole(output / TABLE, "\n".join(lines) + "\n")
    files.write_json(output / "results.json", results)  # Last, for it to say that nothing is left to do.
    print("\n".join(["", *lines, "", *gain_lines([member.workdir], output)[-1:]]))
    return results


def _check_output(output: Path, member: Member, asked: Mapping[str, Any]) -> None:
    """Sees that the new run may be written there, or that what was stopped there is the same.

    Raises:
      UserError: neither is so.
    """
    check_apart(output, [member], flag="--output")
    if not (output / NOTE).exists() or "compress" in _results(output):
        check_output(output, [member], flag="--output")
        return
    before = files.read_json(output / NOTE)
    changed = [f"{key} {before.get(key)}, not {value}" for key, value in asked.items() if before.get(key) != value]
    if changed and (files.has_checkpoints(output) or _results(output)):
        raise UserError(
            f"--output={output} holds a run that was stopped, and was asked for otherwise ({', '.join(changed)}): ask "
            "for the same to go on with it, or give a new folder."
        )


def _has_begun(output: Path) -> bool:
    """Tells whether a run there trains from its BEGINNING, or has done so and needs it no more."""
    return bool(_results(output)) or (files.has_checkpoints(output) and (output / BEGINNING).exists())


def _results(output: Path) -> dict[str, Any]:
    path = output / "results.json"
    return dict(files.read_json(path)) if path.exists() else {}


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
    given = {"recipe": recipe.name, **recipe.options()}
    flags = [f"--{name}={value if isinstance(value, str) else f'{value:g}'}" for name, value in given.items()]
    flags += [f"--config.{key}={shlex.quote(value)}" for key, value in overrides.items()]
    return f"python -m jaxtl.main compress --workdir={shlex.quote(str(workdir))} {' '.join(flags)} --output=NEW"
