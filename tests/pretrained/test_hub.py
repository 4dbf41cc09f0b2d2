"""A repository of the hub opens from the command line, from a stand-in of the hub on loopback, and then without it."""

import hashlib
import os
import subprocess
import sys

import pytest
from stand_in_hub import COMMIT, serving

from jaxtl.deploy.export.hf import save_huggingface
from jaxtl.models import build
from jaxtl.preprocessing import Pixels
from jaxtl.pretrained.load import initialise

NAME = "vit_s16:image_size=32,patch=8,width=32,depth=2,heads=4,epsilon=1e-12"
CARD = b"---\nlicense: apache-2.0\n---\n# Flowers"


@pytest.fixture
def hub():
    with serving() as found:
        found.repositories["org/flowers"] = {"README.md": CARD}
        found.facts["org/flowers"] = {"cardData": {"license": "apache-2.0"}}
        yield found


def _describe(location, address, cache):
    """Runs describe in a process of its own: the hub's client reads its address once, at import."""
    config = "configs/vit_flowers.py:ti16"
    command = [sys.executable, "-m", "jaxtl.main", "describe", f"--config={config}", "--config.model.name=auto"]
    settings = {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [*command, f"--config.model.weights={location}", "--config.data.source=folder:nowhere"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
def test_a_repository_opens_once_over_the_network_and_then_from_the_cache(hub, tmp_path):
    import jax

    files, log = hub.repositories["org/flowers"], hub.log
    pixels = Pixels(32, 40, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "bicubic")
    variables = initialise(build(NAME, num_classes=3, image_size=32), jax.random.key(0), 32)
    save_huggingface(tmp_path / "made", variables, model=NAME, pixels=pixels, classes=("a", "b", "c"))
    files.update({path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()})

    first = _describe("hf:org/flowers", hub.address, tmp_path / "cache")
    assert (first.returncode, "Traceback" in first.stderr) == (0, False), first.stderr
    digest = hashlib.sha256(files["model.safetensors"]).hexdigest()
    revision = f"hf:org/flowers @ {COMMIT[:12]}"
    for fact in (revision, f"sha256 {digest[:12]}", "apache-2.0", "mean 0.4 0.5 0.6", "3, a ... c", "32 leaves"):
        assert fact in first.stdout
    asked = len(log)
    assert asked > 4
    second = _describe("hf:org/flowers", "http://127.0.0.1:9", tmp_path / "cache")
    assert (second.returncode, second.stdout) == (0, first.stdout), second.stderr
    assert len(log) == asked

    missing = _describe("hf:org/flowers/other.safetensors", hub.address, tmp_path / "cache")
    assert "hf:org/flowers has no file 'other.safetensors'" in missing.stderr
