"""Working memory of steps on a CPU: kept from one to the next, and held by one at a time."""

import ctypes
import platform
from pathlib import Path

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1

# Of NVIDIA, AMD and TPUs, below /dev.
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel*", "vfio/[0-9]*")


def has_accelerator() -> bool:
    """Tells whether this machine has a GPU or a TPU, without asking JAX, which would take hold of it."""
    return any(next(Path("/dev").glob(name), None) for name in _ACCELERATORS)


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory for its next allocations; returns whether the C library can.

    On a CPU, XLA takes the working memory of each step from malloc and frees it afterwards. glibc hands blocks of that
    size back to the system, which clears page after page of them anew: a ninth of a step of ViT-S. To be called before
    JAX starts its threads. From then on the process stays as large as it has ever been. Where there is an accelerator
    nothing changes: steps take no memory of the host then, and the threads that decode images keep their own arenas.
    """
    if platform.libc_ver()[0] != "glibc" or has_accelerator():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One arena for all threads: in theirs, which are small, large blocks are mapped and unmapped all the same.
    return all([mallopt(_M_ARENA_MAX, 1), mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, _NEVER)])


def dispatch_synchronously() -> None:
    """Makes JAX begin a computation on a CPU only when the one before has ended; to be called before the first.

    Each that is begun ahead takes working memory of its own, which is no longer in the cache: queued steps of ResNet-50
    at batch 8 hold 6.6 GB instead of 3.0, and take a tenth longer. What is lost is that the loop draws the next batch
    from its readers, which read on, while a step computes.
    """
    import jax  # It takes a second, which --help need not wait for.

    jax.config.update("jax_cpu_enable_async_dispatch", False)
