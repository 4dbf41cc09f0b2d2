"""How long the step of a deep ViT takes to compile beside that of a shallow one: blocks unrolled, scanned and stacked.

    python tests/benchmarks/compile_time.py --models vit_ti16 vit_l16

Stacked is what model.scan does in a run; scanned is a loop over parameters that are stacked within each step. Images
are small and few (what is compiled depends on the number of operations, hardly on their sizes). Each program is
lowered and compiled in turn --repeats times, without a cache; the median counts.
"""

import argparse
import itertools
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp

from jaxtl import models
from jaxtl.finetune import param_groups as groups_lib
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.scanned_state import find_scanned, first_by_scanned, over_scanned, scanned_state
from jaxtl.train.state import TrainState
from jaxtl.train.step import StepOptions, train_step

FORMS = ("stacked", "scanned", "unrolled")


def measure(name: str, form: str, dtype: str) -> tuple[float, float, float]:
    """Returns seconds to trace and lower, seconds to compile, and MiB at work."""
    model = models.build(
        name,
        num_classes=10,
        image_size=32,
        options=models.ModelOptions(scan=form != "unrolled", dtype=jnp.dtype(dtype)),
    )
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    labels = groups_lib.assign(variables["params"], model.groups())
    stacks = find_scanned(model.alike(), dict.fromkeys(labels)) if form == "stacked" else ()
    labels = first_by_scanned(labels, stacks)
    optimizer = over_scanned(
        make_optimizer(labels, OptimizerOptions(name="adamw", learning_rate=1e-3, weight_decay=0.05)), stacks
    )

    def start(tree):
        return scanned_state(TrainState.create(tree, optimizer, jax.random.key(0)), stacks)

    state = jax.eval_shape(start, variables)
    step = jax.jit(
        partial(train_step, model=model, optimizer=optimizer, groups=labels, options=StepOptions(clip_norm=1.0))
    )
    begun = time.perf_counter()
    lowered = step.lower(state, {"image": image, "label": jax.ShapeDtypeStruct((2,), jnp.int32)})
    at = time.perf_counter()
    compiled = lowered.compile()
    return at - begun, time.perf_counter() - at, compiled.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_ti16", "vit_l16"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    cases = list(itertools.product(arguments.models, FORMS))
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {case: [] for case in cases}
    for _ in range(arguments.repeats):
        for case in cases:
            found[case].append(measure(*case, arguments.dtype))
    for (name, form), rows in found.items():
        lower, compile_, memory = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:10} {form:9} {lower:6.2f} s to lower, {compile_:6.2f} s to compile, {memory:8.1f} MiB at work")
    if len(arguments.models) == 2:
        first, second = arguments.models
        for form in FORMS:
            one, other = (statistics.median(row[0] + row[1] for row in found[name, form]) for name in (first, second))
            print(f"{second} by {first}, {form}: {other / one:.2f}")


if __name__ == "__main__":
    main()
