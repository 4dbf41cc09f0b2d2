"""What a step frees is there for the next one, and for it alone."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from jaxtl.parallel.cpu_runtime import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print(-1)
    sys.exit()
import jax, jax.numpy as jnp

@jax.jit
def step(x):
    # Products, which no fusion can leave out: 16 MiB each, of few numbers.
    for _ in range(4):
        x = jnp.sin(x + x[:, :32] @ x[:32])
    return x.sum()

x = jnp.ones((2048, 2048))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
def test_a_step_finds_its_memory_again():
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", PROGRAM, how], text=True))
        for how in ("keep", "as it is")
    }
    if faults["keep"] == -1:
        pytest.skip("another C library, or an accelerator")
    assert faults["as it is"] > 40 * 8_000  # 32 MiB are 8,192 pages of 4 KiB, in every step.
    assert faults["keep"] < faults["as it is"] / 3  # Some steps go by until the heap is large enough.


IN_TURN = """
import sys
import jax, jax.numpy as jnp
from jaxtl.parallel.cpu_runtime import dispatch_synchronously
if sys.argv[1] == "in turn":
    dispatch_synchronously()

step = jax.jit(lambda x: jnp.sin(x @ x))
x = step(jnp.ones((2048, 2048))).block_until_ready()
print([step(x).is_ready() for _ in range(3)])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "ended"), [("in turn", True), ("ahead", False)])
def test_a_step_has_ended_when_the_next_begins(how, ended):
    assert subprocess.check_output([sys.executable, "-c", IN_TURN, how], text=True).strip() == str([ended] * 3)
