"""XLA's flags for NVIDIA GPUs, set before JAX starts; what the environment gives already stays.

They are read once, when JAX first looks for its devices, so `python -m jaxtl.main` sets them before it imports JAX, and
whoever trains in his own process does the same: `from jaxtl import gpu_flags; gpu_flags.set_flags()`.
"""

import os
import re
from importlib import metadata
from pathlib import Path

# An unknown flag, or an unknown word in one, aborts the process: jaxlib 0.10.2, 0.11.2 and 0.12.0 know these.
FLAGS = {
    # Convolutions too are captured in CUDA graphs: one call in place of hundreds for a step of ResNet-50.
    "xla_gpu_enable_command_buffer": "+CONVOLUTION",
    # cuBLAS won all large products of a ViT and a ResNet on an H100; where Triton's are tried first, biases and
    # residuals that cuBLAS would add on the way become passes of their own, and compiling takes longer.
    "xla_gpu_enable_triton_gemm": "false",
}
_OLDEST, _NEWEST = (0, 10, 2), (0, 12)


def has_nvidia_gpu() -> bool:
    """Tells whether this machine has an NVIDIA GPU, without asking JAX, which would take hold of it."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def flags_for(version: str, given: str) -> str:
    """Returns the value of XLA_FLAGS: what is given, and those of FLAGS that it does not name.

    Args:
      version: of jaxlib, such as "0.11.2"; for one before 0.10.2 or after 0.12 nothing is added.
      given: the value so far.

    >>> flags_for("0.11.2", "--xla_gpu_enable_triton_gemm=true")
    '--xla_gpu_enable_triton_gemm=true --xla_gpu_enable_command_buffer=+CONVOLUTION'
    >>> flags_for("0.99.0", "--xla_dump_to=dump")
    '--xla_dump_to=dump'
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    if not (numbers >= _OLDEST and numbers[:2] <= _NEWEST):
        return given
    added = [f"--{name}={value}" for name, value in FLAGS.items() if f"--{name}" not in given]
    return " ".join([given, *added] if given else added)


def set_flags() -> None:
    """Sets XLA_FLAGS for this process where it has an NVIDIA GPU; to be called before JAX looks for its devices."""
    if has_nvidia_gpu():
        flags = flags_for(metadata.version("jaxlib"), os.environ.get("XLA_FLAGS", ""))
        if flags:
            os.environ["XLA_FLAGS"] = flags


def keep_compiled() -> None:
    """Keeps what is compiled for a GPU on disk, for later runs: XLA's programs, and which kernels it found fastest.

    $JAX_COMPILATION_CACHE_DIR says where, else it is ~/.cache/jaxtl/compiled. JAX keeps XLA's autotuning beside them.
    """
    if has_nvidia_gpu() and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.expanduser("~/.cache/jaxtl/compiled")
