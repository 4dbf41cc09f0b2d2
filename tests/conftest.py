"""Settings every test runs under, and the place where the shared material may lie."""

import gc
import importlib.metadata
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Two devices, so that a mistake in sharding shows in every test that jits. Without the passes of LLVM and the emitters
# of fusions by MLIR, which change results by rounding alone, compiling for a CPU takes a third of the time; the kernels
# of a GPU come from LLVM too. On a busy machine one device may wait for another for longer than the minute after which
# XLA aborts the process.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    + (
        " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        # Later versions have no other emitters, and end at flags that they do not know.
        # In one part each, programs as small as these compile faster.
        + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        * importlib.metadata.version("jaxlib").startswith("0.10.")
    )
    * (os.environ["JAX_PLATFORMS"] == "cpu"),
)
# One cache for the tests and for the commands they start: compiling is most of their time.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "jaxtl-tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# Dtypes may promote, since optax relies on it: Adam's bias correction takes a float to the power of an int32 count.


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process a core; one more for the slow tests, which wait for processes that they start."""
    return (os.cpu_count() or 1) + (config.option.markexpr == "")


def pytest_collection_finish() -> None:
    """Spares the garbage collector what stays to the end, and most of its rounds: a tenth of the time of tracing."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def exact_products(request):
    """Float32 products in float32 for the tests that a GPU runs too, where JAX takes TF32 unless it is told not to."""
    if request.node.get_closest_marker("gpu") is None:
        yield
        return
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def interruptible():
    """A shell starts what it runs in the background with SIGINT ignored, and each process hands that down."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real weights and photographs; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the real weights and photographs are not at {SHARED}")
    return SHARED


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts stand-ins, by name, before everything in PATH, and a python that is the tests' own behind them."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def write(**scripts):
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (folder / name).chmod(0o755)

    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return write
