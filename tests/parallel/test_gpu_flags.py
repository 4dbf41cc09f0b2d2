"""The flags for NVIDIA GPUs: added where they are known, never over what is given."""

import os

import pytest

from jaxtl.parallel import gpu_flags

BOTH = "--xla_gpu_enable_command_buffer=+CONVOLUTION --xla_gpu_enable_triton_gemm=false"


@pytest.mark.parametrize(
    ("version", "given", "flags"),
    [
        ("0.10.2", "", BOTH),
        ("0.11.2", "--xla_dump_to=there", f"--xla_dump_to=there {BOTH}"),
        ("0.12.0.1", "", BOTH),
        ("0.12.9", "", BOTH),
        ("0.13.0", "", ""),
        ("0.10.1", "--xla_dump_to=there", "--xla_dump_to=there"),
        ("0.12.0", BOTH.replace("false", "true"), BOTH.replace("false", "true")),
        (
            "0.12.0",
            "--xla_gpu_enable_command_buffer=",
            "--xla_gpu_enable_command_buffer= --xla_gpu_enable_triton_gemm=false",
        ),
    ],
)
def test_what_is_given_stays_and_untried_versions_get_nothing(version, given, flags):
    assert gpu_flags.flags_for(version, given) == flags


@pytest.mark.parametrize("here", [True, False])
def test_the_environment_changes_with_a_gpu_only(monkeypatch, here):
    monkeypatch.setattr(gpu_flags, "has_nvidia_gpu", lambda: here)
    monkeypatch.setattr(gpu_flags.metadata, "version", lambda name: "0.11.2")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=there")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    gpu_flags.set_flags()
    gpu_flags.keep_compiled()
    assert os.environ["XLA_FLAGS"] == ("--xla_dump_to=there " + BOTH if here else "--xla_dump_to=there")
    expected = "/home/somebody/.cache/jaxtl/compiled" if here else None
    assert os.environ.get("JAX_COMPILATION_CACHE_DIR") == expected
    if here:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
        gpu_flags.keep_compiled()
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"
