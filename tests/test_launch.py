"""The launch scripts, with a stand-in for python that dies as it is told."""

import os
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "launch"


@pytest.fixture
def launch(tmp_path):
    def run(statuses, retries=5):
        """Runs local.sh with a python that exits with the given statuses, one after the other."""
        (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
        fake = tmp_path / "python"
        fake.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
            f'status=$(head -n 1 {tmp_path}/statuses)\nsed -i 1d {tmp_path}/statuses\nexit "$status"\n'
        )
        fake.chmod(0o755)
        (tmp_path / "sleep").write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/waits\n")
        (tmp_path / "sleep").chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "RETRIES": str(retries)}
        done = subprocess.run(
            [LAUNCH / "local.sh", "--config=a b", "--workdir=w"], env=environment, capture_output=True
        )
        waits = tmp_path / "waits"
        calls = (tmp_path / "calls").read_text().splitlines()
        assert set(calls) == {"-m jaxtl.main --config=a b --workdir=w"}
        return done.returncode, len(calls), waits.read_text().split() if waits.exists() else []

    return run


def test_a_run_that_dies_is_started_again_with_growing_waits(launch):
    assert launch([137, 134, 0]) == (0, 3, ["1", "2"])


@pytest.mark.parametrize("status", [0, 1, 2])
def test_what_a_person_must_mend_is_not_tried_again(launch, status):
    assert launch([status, 0]) == (status, 1, [])


def test_it_gives_up_after_the_given_number_of_tries(launch):
    assert launch([139] * 9, retries=2) == (139, 3, ["1", "2"])
