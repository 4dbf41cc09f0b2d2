"""What a step would take on a slice of chips that is not here."""

import json

import pytest

VIT = "vit_petals:depth=2,width=64,heads=2,patch=8"


def plan(jaxtl, config_file, tmp_path, name, *flags):
    return jaxtl(
        "bench",
        f"--config={config_file}",
        f"--workdir={tmp_path / 'b'}",
        "--config.data.source=folder:nowhere",
        f"--config.model.name={VIT}",
        f"--plan={name}",
        *flags,
    )


@pytest.mark.slow
def test_a_step_is_foretold_for_chips_that_are_not_here(jaxtl, config_file, tmp_path):
    status, out, err = plan(jaxtl, config_file, tmp_path, "v5e-8", "--config.train.batch_size=32", "--plan-share=0.4")
    assert (status, err) == (0, "")
    found = json.loads((tmp_path / "b" / "plan.json").read_text())
    assert [row["chips"] for row in found["slices"]] == [1, 4, 8]
    assert found["assumed"]["share_of_peak"] == 0.4
    # 1,000 classes; the gradient of the class token is a position's. And loss, accuracy and the count of rows.
    numbers = 112_832 + 65_000 - 64 + 3
    exchanged = found["per_chip"]["collectives"]["all-reduce"]
    assert exchanged["mb"] == pytest.approx(4 * numbers / 1e6)
    assert exchanged["mb_sent"] == pytest.approx(exchanged["mb"] * 2 * 7 / 8)
    # Of 4 tokens and one that alone asks in the last block; the images have no gradient. Each chip has 4 rows.
    embed, block = 2 * 4 * 8 * 8 * 3 * 64, 2 * 5 * (12 * 64**2 + 2 * 5 * 64)
    asked = 2 * ((2 * 5 + 10) * 64**2 + 2 * 5 * 64)
    flop = 4 * (3 * (embed + block + asked + 2 * 64 * 1000) - embed)
    assert found["per_chip"]["gflop"] == pytest.approx(flop / 1e9, rel=1e-12)
    last = found["slices"][-1]["weak"]
    assert last["link_seconds"] == pytest.approx(exchanged["mb_sent"] * 1e6 / 100e9)
    assert 0 < last["efficiency_if_exposed"] <= last["efficiency"] <= last["efficiency_if_hidden"] <= 1
    assert last["compute_seconds"] == pytest.approx(found["per_chip"]["gflop"] / (0.4 * 197e3))
    for text in ("8 chips", "nothing was run", "left out: reading and decoding images", "links at 50 GB/s each way"):
        assert text in out
    assert not (tmp_path / "b" / "bench.json").exists()


@pytest.mark.slow
def test_a_state_that_is_cut_is_foretold_too(jaxtl, config_file, tmp_path):
    flags = ("--config.train.batch_size=32", "--config.train.mesh={'data': -1, 'fsdp': 4}")
    status, _, err = plan(jaxtl, config_file, tmp_path, "v5e-8", *flags)
    assert (status, err) == (0, "")
    found = json.loads((tmp_path / "b" / "plan.json").read_text())
    assert [row["mesh"] for row in found["slices"]] == [
        {"data": 1, "fsdp": 1},
        {"data": 1, "fsdp": 4},
        {"data": 2, "fsdp": 4},
    ]
    assert "all-gather" in found["per_chip"]["collectives"]
    assert found["slices"][0]["weak"]["link_seconds"] == 0.0
    assert found["slices"][1]["weak"]["link_seconds"] > 0


@pytest.mark.parametrize(
    ("name", "flags", "problem"),
    [
        ("v9-8", (), "there is no chip 'v9'; give one of v4, v5e, v5p, v6e, a100, h100"),
        ("v5e-7", (), "v5e comes as v5e-N with N one of 1, 4, 8, 16, 32, 64, 128, 256"),
        ("v5p-7", (), "N one of 2, 8, 16, 32"),
        ("v5e-8", ("--config.train.batch_size=12",), "over the 8 chips of v5e-8: give a multiple, such as"),
        ("v5e-8", ("--config.train.mesh={'data': -1, 'fsdp': 3}",), "must be the number of devices, 8"),
        ("v5e-8", ("--plan-share=0",), "--plan-share=0: give a share of the chip's peak, above 0 and at most 1"),
        ("v5e-8", ("--plan-share=1.5",), "--plan-share=1.5"),
        pytest.param(
            *("v5e-8", ("--config.train.sharding={'tail': ()}",), "'tail' fits no parameter"), marks=pytest.mark.slow
        ),
    ],
)
def test_a_plan_that_cannot_be_is_an_error(jaxtl, config_file, tmp_path, name, flags, problem):
    status, _, err = plan(jaxtl, config_file, tmp_path, name, *flags)
    assert status == 1
    assert problem in err
    assert "Traceback" not in err
