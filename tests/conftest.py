"""Settings every test runs under, and the place where the shared material may lie."""

import os
from pathlib import Path

# Two devices, so that a mistake in sharding shows in every test that jits.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# One cache for the tests and for the commands they start: compiling is most of their time.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "jaxtl-tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real weights and photographs; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the real weights and photographs are not at {SHARED}")
    return SHARED
