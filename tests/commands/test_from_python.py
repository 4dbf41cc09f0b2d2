"""Commands as functions: configs made in Python are checked as those of files are, and paths may be text."""

import pytest

from jaxtl import config as config_lib
from jaxtl.commands import lr_find, prepare, train
from jaxtl.errors import UserError


@pytest.fixture
def config():
    c = config_lib.default()
    c.data.source, c.train.steps = "folder:nowhere", 3
    return c


@pytest.mark.parametrize("run", [train.run, lr_find.run, lambda config, workdir: prepare.run(config)])
def test_a_wrong_key_is_told(config, tmp_path, run):
    config.optimizer.lr = 1.0
    with pytest.raises(
        UserError, match=r"unknown key config.optimizer.lr; did you mean config.optimizer.learning_rate"
    ):
        run(config, str(tmp_path / "run"))


def test_a_run_that_cannot_begin_leaves_nothing(config, tmp_path):
    config.train.batch_size = 0
    with pytest.raises(UserError, match=r"train.batch_size is 0, but it must be 1 or more"):
        train.run(config, str(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []
