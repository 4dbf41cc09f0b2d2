import pytest

from jaxtl.profiling.chips import peak_tflops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("TPU v5 lite", 197),
        ("TPU v6 lite", 918),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("cpu", None),
    ],
)
def test_the_peak_of_a_device_by_the_name_that_jax_gives_it(kind, peak):
    assert peak_tflops(kind) == peak
