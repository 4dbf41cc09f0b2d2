"""What accelerators can do at most, by the name that JAX gives them: the measure of model FLOPs utilisation."""

import re

# (device_kind, dense TFLOP/s in bfloat16 of what JAX calls one device), from the makers' data sheets and white papers,
# with sums in float32, which GeForce cards do at half the rate. A TPU v2 or v3 chip is two devices. V100 and T4 have no
# bfloat16: their figure is that of float16 on tensor cores.
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
    (r".*\bL40\b.*", 181),
    (r".*\bL40S\b.*", 362),
    (r".*\bRTX A6000\b.*", 154.8),
    (r".*\bRTX 6000 Ada\b.*", 364.2),
    (r".*\bRTX PRO 6000 Blackwell Max-Q\b.*", 439),
    (r".*\bRTX PRO 6000 Blackwell Server\b.*", 500),
    (r".*\bRTX PRO 6000 Blackwell Workstation\b.*", 503.8),
    # In full, since laptops and other regions have slower chips under longer names.
    (r"NVIDIA GeForce RTX 3090", 71),
    (r"NVIDIA GeForce RTX 4090", 165.2),
    (r"NVIDIA GeForce RTX 5090", 209.5),
    (r".*\bH(100|200) NVL\b.*", 835),
    (r".*\bH100 PCIe\b.*", 756),
    (r".*\bH(100|200)\b.*|.*\bGH200\b.*", 989),
    (r".*\bB200\b.*", 2250),
    (r".*\bGB200\b.*", 2500),
)


def peak_tflops(device_kind: str) -> float | None:
    """Returns the peak of a device; None where the table does not know it, and for a part of one (MIG).

    >>> peak_tflops("NVIDIA H100 80GB HBM3")
    989
    """
    if re.search(r"\bMIG\b", device_kind):
        return None
    return next((peak for pattern, peak in PEAK_TFLOPS if re.fullmatch(pattern, device_kind)), None)
