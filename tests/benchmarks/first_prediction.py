"""Seconds from the start of a process to the first prediction of a saved run.

    python tests/benchmarks/first_prediction.py RUN PHOTO [--rounds 3]

Each is a process of its own, in turn: importing jax and flax alone, which is the least there is; `jaxtl.load` and one
photograph with an empty compilation cache, and with what that left. Beside the seconds on the clock stand those of the
processor. Measured with DeiT-Tiny and a head of its own for 12 classes, on two free cores, medians of five rounds on
the clock: jax and flax alone 0.99 s (0.76 to 1.20), an empty cache 2.61 s (2.29 to 2.85), a warm one 1.91 s
(1.73 to 2.36).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

LEAST = "import jax.numpy, flax.linen"
FIRST = "import jaxtl, sys; print(jaxtl.load(sys.argv[1])(sys.argv[2])['class'])"


def seconds(code: str, arguments: list[str], cache: str) -> tuple[float, float]:
    """Returns the seconds on the clock and of the processor that a process takes."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, used


def main() -> None:
    """Prints the medians and ranges of all rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("photo")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    given = [arguments.run, arguments.photo]
    found: dict[str, list[tuple[float, float]]] = {"jax and flax alone": [], "empty cache": [], "warm cache": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as cache:
            found["jax and flax alone"].append(seconds(LEAST, [], cache))
            found["empty cache"].append(seconds(FIRST, given, cache))
            found["warm cache"].append(seconds(FIRST, given, cache))
    for name, times in found.items():
        clock, used = zip(*times, strict=True)
        parts = [f"{statistics.median(each):.2f} s ({min(each):.2f} to {max(each):.2f})" for each in (clock, used)]
        print(f"{name:20} clock {parts[0]}, processor {parts[1]}")


if __name__ == "__main__":
    main()
