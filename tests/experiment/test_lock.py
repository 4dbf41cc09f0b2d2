import os
import subprocess
import sys

import pytest

from jaxtl.errors import UserError
from jaxtl.experiment import lock
from jaxtl.experiment.lock import locked

# Another program, which need not import jaxtl for it.
HOLDER = """
import fcntl, os, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(f"process {os.getpid()} on vm", end="", file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_run_is_refused_and_the_first_leaves_nothing(tmp_path):
    with locked(tmp_path):
        with (
            pytest.raises(UserError, match=f"a run trains there now, process {os.getpid()} on .*: wait for it or stop"),
            locked(tmp_path),
        ):
            pass
        assert (tmp_path / lock.NAME).exists()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        pass


def test_who_reads_a_run_knows_whether_it_lives(tmp_path):
    assert not lock.is_held(tmp_path)
    with locked(tmp_path):
        assert lock.is_held(tmp_path)
    command = [sys.executable, "-c", HOLDER, str(tmp_path / lock.NAME)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert lock.is_held(tmp_path)
        process.kill()
    assert (tmp_path / lock.NAME).exists()
    assert not lock.is_held(tmp_path)


def test_one_that_was_killed_holds_it_no_more(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / lock.NAME)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {process.pid} on "), locked(tmp_path):
            pass
        process.kill()
        process.wait()
    assert (tmp_path / lock.NAME).exists()
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_holder_took_away_is_taken_anew(tmp_path, monkeypatch):
    lies_at, seen = lock._lies_at, []

    def remove_once(descriptor, path):
        if not seen:
            path.unlink()
        seen.append(descriptor)
        return lies_at(descriptor, path)

    monkeypatch.setattr(lock, "_lies_at", remove_once)
    os.close(lock._take(tmp_path / lock.NAME))
    assert len(seen) == 2


def test_where_nothing_can_be_locked_it_says_so(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with locked(tmp_path):
        assert "cannot be locked (No locks available): see that no other run trains there" in capsys.readouterr().out


def test_a_lock_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / lock.NAME).mkdir()
    with pytest.raises(UserError, match=r"cannot be claimed: .*\.lock: Is a directory\. See whether"), locked(tmp_path):
        pass
