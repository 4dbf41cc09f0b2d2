import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.profiling.chips import PEAK_TFLOPS, peak_tflops
from jaxtl.profiling.timing import Timing, time_steps


def test_figures_of_a_timing():
    timing = Timing(dispatched=np.array([1.0, 2.5, 4.0]), done=np.array([1.0, 2.0, 4.0, 5.0]))
    assert timing.seconds == pytest.approx(4 / 3)
    assert timing.waiting == pytest.approx(0.5 / 4)  # Only before the second: the others were queued in time.
    assert timing.percentiles(0, 50, 100) == [1.0, 1.0, 2.0]


def test_every_step_is_taken_in_order_and_a_slow_source_is_told_from_slow_steps():
    step = jax.jit(lambda state, batch: (state + batch, {"loss": state * batch}))

    def slow():
        for _ in range(8):
            time.sleep(0.02)
            yield jnp.ones(())

    state, timing = time_steps(step, jnp.zeros(()), slow(), steps=6, warmup=2)
    assert float(state) == 8
    assert (timing.dispatched.shape, timing.done.shape) == ((6,), (7,))
    assert np.all(np.diff(timing.done) > 0)
    assert timing.waiting > 0.5

    heavy = jax.jit(lambda state, batch: (jnp.tanh(state @ batch), {"loss": state[0, 0]}))
    square = jnp.ones((400, 400))
    _, timing = time_steps(heavy, square, itertools.repeat(square), steps=6, warmup=2)
    assert timing.waiting < 0.5


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v2", 22.5),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla T4", 65),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 503.8),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 439),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 500),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("cpu", None),
        ("NVIDIA GeForce GTX 1080", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX 6000", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_peaks_are_found_by_the_names_that_jax_gives(kind, peak):
    assert peak_tflops(kind) == peak
    assert len(PEAK_TFLOPS) == len({pattern for pattern, _ in PEAK_TFLOPS})
