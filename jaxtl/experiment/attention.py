"""The form of attention that a run computes with: the config's, the one it began with, or the fastest on this card."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from jaxtl.experiment import options
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import Experiment
from jaxtl.finetune.param_groups import FROZEN
from jaxtl.models.layers.attention import accepted, padded_tokens
from jaxtl.parallel import processes
from jaxtl.parallel.backend import backend
from jaxtl.profiling.attention_timing import Workload, choose


def with_fastest_attention(experiment: Experiment, *, workdir: Path | None = None) -> Experiment:
    """Returns the experiment with the form of attention to use on this GPU; elsewhere, or without attention, as it is.

    All processes get the same form, to compile the same program.

    Args:
      experiment: model.attention is in its model already, and counts if it is not "auto".
      workdir: of a training run, which goes on with the form that it began with: another rounds otherwise, and with
        dropout draws other masks.
    """
    module: Any = experiment.model.module
    if backend() != "gpu" or not hasattr(module, "attention"):
        return experiment
    form = module.attention
    if form == "auto":
        form = _choose(experiment, workdir) if processes.is_main() else ""
        form = processes.gather(form)[0]
    if form != "auto":
        # What is written down is what computes: JAX may refuse the form that was given.
        shape = (1, padded_tokens(form, module.tokens), module.heads, module.width // module.heads)
        tokens = jax.ShapeDtypeStruct(shape, module.dtype)
        form = accepted(form, tokens, tokens, tokens, module.tokens)
    if workdir is not None:
        files.write_json(workdir / "attention.json", {"form": form, "device": _card()})
    model = dataclasses.replace(experiment.model, module=module.clone(attention=form))
    return dataclasses.replace(experiment, model=model)


def _choose(experiment: Experiment, workdir: Path | None) -> str:
    if workdir is not None and files.has_checkpoints(workdir):
        form, card = files.began_with_attention(workdir)
        if card in ("", _card()):
            print(f"attention: {form}, as the run began")
            return form
    config, plan = experiment.config, experiment.plan
    module: Any = experiment.model.module
    rows = config.train.batch_size // config.train.accumulate if plan.stages else options.eval_batch_size(config)
    workload = Workload(
        # The share of the batch that one device computes.
        batch=max(rows // experiment.partitioner.devices, 1),
        tokens=module.tokens,
        heads=module.heads,
        head_width=module.width // module.heads,
        dtype=jax.numpy.dtype(module.dtype).name,
        # Where the head alone trains, no gradient passes the blocks.
        train=not {FROZEN, "head"}.issuperset(plan.labels.values()),
    )
    return choose(workload, _cache_folder())


def _card() -> str:
    return jax.local_devices()[0].device_kind


def _cache_folder() -> Path | None:
    """Returns the folder of the compilation cache if there is one on a disk."""
    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    return Path(folder) if folder and "://" not in folder else None
