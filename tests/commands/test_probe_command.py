import json

import pytest

# Whole runs, several for each test.
pytestmark = pytest.mark.slow


def test_probe_measures_every_group_and_draws_them(jaxtl, config_file, pictures, tmp_path):
    status, out, err = jaxtl(
        "probe",
        f"--config={config_file}",
        f"--workdir={tmp_path / 'probe'}",
        f"--config.data.source=folder:{pictures}",
        "--per-group",
    )
    assert (status, err) == (0, "")
    results = json.loads((tmp_path / "probe" / "probe.json").read_text())
    assert list(results["groups"]) == ["embed", "block0", "block1"]
    assert results["count"] == 18
    for found in results["groups"].values():
        # Even untrained, the mean over the patches keeps the colour that tells the classes apart.
        assert found["linear"]["accuracy"] > 0.8
        low, high = found["knn"]["interval"]
        assert low <= found["knn"]["accuracy"] <= high
    assert "transfers best" in out
    assert (tmp_path / "probe" / "probe.png").exists()
