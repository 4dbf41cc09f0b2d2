"""A run that a person interrupts, or starts a second time while it trains."""

import re
import signal
import subprocess
import sys

import pytest

from jaxtl.experiment.lock import locked


def test_a_second_run_in_a_workdir_is_refused_and_changes_nothing(train, tmp_path):
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        status, out, err = train()
        assert (status, out) == (1, "")
        assert re.fullmatch(
            r"error: --workdir=\S+/run: a run trains there now, process \d+ on \S+: wait for it or stop it, or give "
            r"another folder\.\n",
            err,
        )
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.slow
def test_ctrl_c_says_what_is_kept_and_the_run_goes_on_from_there(interruptible, config_file, pictures, tmp_path):
    command = [sys.executable, "-m", "jaxtl.main", f"--config={config_file}", f"--config.data.source=folder:{pictures}"]
    command += [f"--workdir={tmp_path / 'run'}", "--config.train.steps=4000", "--config.train.eval_every=20"]
    for ready in ("step 45/4000", "continues at step"):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert any(ready in line for line in process.stdout)
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=30)
            finally:
                process.kill()
        assert process.returncode == 130
        assert re.fullmatch(
            r"interrupted; \S+/run keeps the checkpoint of step \d+0, and started again, the run goes on from there\n",
            err,
        )
        assert not (tmp_path / "run" / ".lock").exists()
