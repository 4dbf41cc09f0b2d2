import contextlib
import fcntl
import io
import os
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
    c.optimizer.warmup_steps = 0
    c.train.monitor = "accuracy"
    c.augment.scale = (0.5, 1.0)
    c.eval.report = False  # What a page takes, its own tests pay.
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
def once(tmp_path_factory):
    """Makes a folder by name once for all test processes; the other times it is the one that is there."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def get(name, make):
        folder, done = root / "once" / name, root / "once" / f"{name}.done"
        folder.parent.mkdir(exist_ok=True)
        with open(folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def _pictures(once):
    def make(folder):
        draw(folder / "train", 20)
        draw(folder / "test", 6, start=100)

    return once("pictures", make)


@pytest.fixture
def pictures(_pictures, tmp_path):
    """A folder source with the splits train and test, to be spoilt at will."""
    return shutil.copytree(_pictures, tmp_path / "pictures")


@pytest.fixture(scope="session")
def trained(once, _pictures):
    """Trains the tiny config with some flags once for all tests; gives a folder with `run` and `printed`."""

    def get(name, *flags):
        def make(folder):
            folder.mkdir()
            (folder / "tiny.py").write_text(CONFIG)
            given = any(flag.startswith("--config.data.source=") for flag in flags)
            source = () if given else (f"--config.data.source=folder:{_pictures}",)
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
                status = main(
                    ["train", f"--config={folder / 'tiny.py'}", f"--workdir={folder / 'run'}", *source, *flags]
                )
            assert (status, err.getvalue()) == (0, "")
            (folder / "printed").write_text(out.getvalue())

        return once(name, make)

    return get


@pytest.fixture(scope="session")
def own_pixels():
    """The flags of `plain` beside its config: a normalisation that no default has."""
    return "--config.model.mean=0.3,0.4,0.5", "--config.model.std=0.2,0.2,0.2"


@pytest.fixture(scope="session")
def plain(trained, own_pixels):
    """The run that most tests look at, trained once for all of them."""
    return trained("plain", *own_pixels)


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
        if not any(flag.startswith("--config.data.source=") for flag in flags):
            flags = (f"--config.data.source={source or f'folder:{pictures}'}", *flags)
        return jaxtl("train", f"--config={config_file}", f"--workdir={tmp_path / workdir}", *flags)

    return run
