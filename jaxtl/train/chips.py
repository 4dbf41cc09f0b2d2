"""What accelerators can do at most, by the name that JAX gives them: the measure of model FLOPs utilisation."""

import re

# (device_kind, dense TFLOP/s in bfloat16 of what JAX calls one device), from the makers' data sheets. A TPU v2 or v3
# chip is two devices. V100 and T4 have no bfloat16: their figure is that of float16 on tensor cores.
PEAK_TFLOPS: tuple[tuple[str, float], ...] = (
    (r"TPU v2", 22.5),
    (r"TPU v3", 61.5),
    (r"TPU v4", 275),
    (r"TPU v5 lite|TPU v5e", 197),
    (r"TPU v5p?", 459),
    (r"TPU v6 lite|TPU v6e", 918),
    (r".*\bV100\b.*", 125),
    (r".*\bT4\b.*", 65),
    (r".*\bA10G\b.*", 70),
    (r".*\bA10\b.*", 125),
    (r".*\bA30\b.*", 165),
    (r".*\bA100\b.*", 312),
    (r".*\bL4\b.*", 121),
    (r".*\bL40S\b.*", 362),
    (r".*\bH100 NVL\b.*", 835),
    (r".*\bH100 PCIe\b.*", 756),
    (r".*\bH(100|200)\b.*|.*\bGH200\b.*", 989),
    (r".*\bB200\b.*", 2250),
)


def peak_tflops(device_kind: str) -> float | None:
    """Returns the peak of a device; None where the table does not know it.

    >>> peak_tflops("NVIDIA H100 80GB HBM3")
    989
    """
    return next((peak for pattern, peak in PEAK_TFLOPS if re.fullmatch(pattern, device_kind)), None)
