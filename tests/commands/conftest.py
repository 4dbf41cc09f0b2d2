import shutil

import numpy as np
import pytest
from PIL import Image

from jaxtl.main import main

TINY = "vit_petals:depth=2,width=16,heads=2,patch=8"
CONFIG = f'''
from jaxtl import config


def get_config(variant=""):
    c = config.default()
    c.model.name = "{TINY}"
    c.model.image_size = 16
    c.train.batch_size = 8
    c.train.steps = 12
    c.train.eval_every = 4
    c.train.log_every = 3
    c.optimizer.learning_rate = 0.01
    c.augment.scale = (0.5, 1.0)
    return c
'''


def draw(folder, count, start=0):
    """Three classes of noisy pictures, told apart by their colour."""
    for index, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(start, start + count):
            noise = np.random.default_rng([index, number]).integers(0, 160, (20, 24, 3))
            noise[..., index] += 60
            Image.fromarray(noise.astype(np.uint8)).save(folder / name / f"{number:03}.png")


@pytest.fixture(scope="session")
def _pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draw(folder / "train", 20)
    draw(folder / "test", 6, start=100)
    return folder


@pytest.fixture
def pictures(_pictures, tmp_path):
    """A folder source with the splits train and test, to be spoilt at will."""
    return shutil.copytree(_pictures, tmp_path / "pictures")


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def jaxtl(capsys, monkeypatch, tmp_path):
    """Runs a command in this process; returns (exit status, what it printed, what it complained of)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse leaves this way, with status 2.
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def train(jaxtl, config_file, pictures, tmp_path):
    """Trains the tiny config on the pictures; further flags replace values."""

    def run(*flags, workdir="run", source=None):
        source = source or f"folder:{pictures}"
        return jaxtl(
            "train",
            f"--config={config_file}",
            f"--workdir={tmp_path / workdir}",
            f"--config.data.source={source}",
            *flags,
        )

    return run
