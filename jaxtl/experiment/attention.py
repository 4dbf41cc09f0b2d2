"""The form of attention that a run computes with: the config's, the one it began with, or the fastest on this card."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxtl.experiment import setup
from jaxtl.experiment import workdir as files
from jaxtl.experiment.training_plan import Plan
from jaxtl.finetune.param_groups import FROZEN
from jaxtl.models.layers.attention import accepted, padded_tokens
from jaxtl.parallel import processes
from jaxtl.parallel.backend import backend
from jaxtl.parallel.partitioner import Partitioner
from jaxtl.profiling.attention_timing import Workload, choose


def with_fastest_attention(
    config: ConfigDict,
    model: setup.Model,
    partitioner: Partitioner,
    *,
    plan: Plan | None = None,
    workdir: Path | None = None,
) -> setup.Model:
    """Returns the model with the form of attention to use on this GPU; elsewhere, and without attention, as it is.

    All processes get the same form, to compile the same program.

    Args:
      config: the config; model.attention is in the model already, and counts if it is not "auto".
      model: the model.
      partitioner: of the steps, for the share of the batch that one device computes.
      plan: of a training run; None where the model is evaluated only.
      workdir: of a training run, which goes on with the form that it began with: another rounds otherwise, and with
        dropout draws other masks.
    """
    module: Any = model.module
    if backend() != "gpu" or not hasattr(module, "attention"):
        return model
    form = module.attention
    if form == "auto":
        form = _choose(config, module, partitioner, plan, workdir) if processes.is_main() else ""
        form = processes.gather(form)[0]
    if form != "auto":
        # What is written down is what computes: JAX may refuse the form that was given.
        shape = (1, padded_tokens(form, module.tokens), module.heads, module.width // module.heads)
        tokens = jax.ShapeDtypeStruct(shape, module.dtype)
        form = accepted(form, tokens, tokens, tokens, module.tokens)
    if workdir is not None:
        files.write_json(workdir / "attention.json", {"form": form, "device": _card()})
    return dataclasses.replace(model, module=module.clone(attention=form))


def _choose(config: ConfigDict, module: Any, partitioner: Partitioner, plan: Plan | None, workdir: Path | None) -> str:
    if workdir is not None and files.has_checkpoints(workdir):
        form, card = files.began_with_attention(workdir)
        if card in ("", _card()):
            print(f"attention: {form}, as the run began")
            return form
    if plan is None:
        rows = (config.eval.batch_size or config.train.batch_size) // partitioner.devices
    else:
        rows = config.train.batch_size // (partitioner.devices * config.train.accumulate)
    workload = Workload(
        batch=max(rows, 1),
        tokens=module.tokens,
        heads=module.heads,
        head_width=module.width // module.heads,
        dtype=jax.numpy.dtype(module.dtype).name,
        # Where the head alone trains, no gradient passes the blocks.
        train=plan is not None and not {FROZEN, "head"}.issuperset(plan.labels.values()),
    )
    return choose(workload, _cache_folder())


def _card() -> str:
    return jax.local_devices()[0].device_kind


def _cache_folder() -> Path | None:
    """Returns the folder of the compilation cache if there is one on a disk."""
    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    return Path(folder) if folder and "://" not in folder else None
