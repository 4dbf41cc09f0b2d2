"""A save leaves the training at once; its digests and its files are made by a thread."""

import errno
import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.checkpoints import manager, orbax_io, snapshot, writer
from jaxtl.checkpoints.manager import Checkpoints
from jaxtl.errors import UserError
from jaxtl.parallel import processes

VARIABLES = {"params": {"kernel": jnp.arange(6.0)}}
REST = {"moment": jnp.ones((2, 3)), "step": jnp.zeros((), jnp.int32)}
LIMIT = 60  # Seconds that nothing here takes: a test that would hang fails.


class Steps:
    """What the parts of a save did, in order; digests wait until the gate is opened."""

    def __init__(self, monkeypatch):
        self.done, self.threads, self.gate = [], set(), threading.Event()
        self._wrap(monkeypatch, manager, "copied", "copied")
        self._wrap(monkeypatch, writer, "digests", "digests", gate=self.gate)
        self._wrap(monkeypatch, orbax_io, "start_save", "written")

    def _wrap(self, monkeypatch, module, name, text, gate=None):
        call = getattr(module, name)

        def logged(*arguments, **keywords):
            assert gate is None or gate.wait(LIMIT)
            result = call(*arguments, **keywords)
            self.threads.add(threading.current_thread())
            self.done.append(text)
            return result

        monkeypatch.setattr(module, name, logged)

    def open_soon(self):
        """Opens the gate while the caller goes on, so that it comes first unless it waits."""
        threading.Timer(0.2, self.gate.set).start()


@pytest.fixture
def steps(monkeypatch):
    steps = Steps(monkeypatch)
    yield steps
    steps.gate.set()


def restored(folder):
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_latest(lambda step: (VARIABLES, REST))
        assert checkpoints.problems == []
    return found


def test_a_save_returns_before_its_digests_are_made(tmp_path, steps):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, VARIABLES, REST, {}, 0.5)
        assert steps.done == ["copied"]
        steps.gate.set()
    assert steps.done == ["copied", "digests", "digests", "written"]
    assert restored(tmp_path)[0] == 1


def test_where_they_are_large_the_next_save_and_the_end_wait_for_the_one_before(tmp_path, steps, monkeypatch):
    monkeypatch.setattr(manager, "_SMALL", 0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, VARIABLES, REST, {}, 0.5)
        steps.open_soon()
        checkpoints.save(2, VARIABLES, REST, {}, 0.25)
        assert steps.done[:5] == ["copied", "digests", "digests", "written", "copied"]
        steps.gate.clear()
        steps.open_soon()
    assert steps.done[5:] == ["digests", "digests", "written"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_small_ones_wait_in_memory_and_only_the_latest_and_the_best_of_them_are_written(tmp_path, steps):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, VARIABLES, REST, {}, 0.5)
        for step, score in {2: 0.6, 3: 0.7, 4: 0.1, 5: 0.2, 6: 0.3}.items():
            checkpoints.save(step, {"params": {"kernel": jnp.full(3, step)}}, REST, {"note": step}, score)
        assert steps.done == ["copied"] * 6
        steps.gate.set()
        checkpoints.wait()
        # Step 2, which was the best for a while, and step 4 are gone by then.
        assert steps.done[6:] == ["digests", "digests", "written"] * 4
        assert (checkpoints.steps(), checkpoints.best()) == ([3, 5, 6], 3)
        assert checkpoints.read_variables(3)["params"]["kernel"].tolist() == [3, 3, 3]


def test_writing_pauses_for_nine_times_as_long_as_it_took(tmp_path, monkeypatch):
    now, write = [100.0], orbax_io.start_save

    def takes_a_second(*arguments, **keywords):
        write(*arguments, **keywords)
        now[0] += 1

    monkeypatch.setattr(writer, "monotonic", lambda: now[0])
    monkeypatch.setattr(orbax_io, "start_save", takes_a_second)
    found = []
    with Checkpoints(tmp_path) as checkpoints:
        for step, at in enumerate([100.0, 109.9, 110.0, 119.9, 120.0], start=1):
            now[0] = max(now[0], at)
            checkpoints.save(step, VARIABLES, REST, {}, None)
            checkpoints._writer.settle()
            found.append(sorted(int(path.name) for path in tmp_path.iterdir()))
    assert found == [[1], [1], [2, 3], [2, 3], [2, 3]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5"]


def test_steps_and_best_count_the_save_that_is_under_way(tmp_path, steps):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, VARIABLES, REST, {}, 0.5)
        steps.open_soon()
        assert checkpoints.steps() == [1]
        assert checkpoints.best() == 1


def test_a_restore_waits_for_the_save_that_is_under_way(tmp_path, steps):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, VARIABLES, REST, {"note": 3}, 0.5)
        steps.open_soon()
        step, _, _, host = checkpoints.restore_latest(lambda step: (VARIABLES, REST))
        assert (step, host, checkpoints.problems) == (1, {"note": 3}, [])


def test_saved_is_what_was_there_at_the_call(tmp_path, steps):
    variables = jax.tree.map(jnp.copy, VARIABLES)
    train = jax.jit(lambda tree: jax.tree.map(lambda x: x * 10 + 1, tree), donate_argnums=0)
    host = {"window": {"loss": 1.0}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, variables, REST, host, None)
        after = train(variables)
        host["window"]["loss"] = 2.0
        assert variables["params"]["kernel"].is_deleted()
        np.testing.assert_array_equal(after["params"]["kernel"], [1, 11, 21, 31, 41, 51])
        steps.gate.set()
    step, found, rest, host = restored(tmp_path)
    assert (step, host) == (1, {"window": {"loss": 1.0}})
    np.testing.assert_array_equal(found["params"]["kernel"], [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(rest["moment"], [[1, 1, 1], [1, 1, 1]])


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FULL = (
    "the checkpoint of step 2 cannot be written to {}: [Errno 28] No space left on device\n"
    "Make room, or fix the permissions, and start again; the run goes on from step 1, the newest that is whole."
)


def test_what_fails_in_the_thread_is_told_at_the_next_save(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, VARIABLES, REST, {}, 0.5)
        assert checkpoints.steps() == [1]  # It waits for the thread, which must not meet the full disk yet.
        with monkeypatch.context() as patch:
            patch.setattr(orbax_io, "start_save", full)
            checkpoints.save(2, VARIABLES, REST, {}, 0.6)
            assert checkpoints.steps() == [1]
        with pytest.raises(UserError) as told:
            checkpoints.save(3, VARIABLES, REST, {}, 0.7)
        assert str(told.value) == FULL.format(tmp_path)
        checkpoints.save(3, VARIABLES, REST, {}, 0.7)  # It is told once.
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.ranked() == [3, 1]


def test_what_fails_in_the_thread_is_told_at_the_end(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, VARIABLES, REST, {}, 0.5)
    monkeypatch.setattr(orbax_io, "start_save", full)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, VARIABLES, REST, {}, 0.6)
    with pytest.raises(UserError) as told:
        checkpoints.__exit__(None, None, None)
    assert str(told.value) == FULL.format(tmp_path)


def test_what_ended_the_run_is_told_before_what_failed_in_the_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_io, "start_save", full)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, VARIABLES, REST, {}, 0.5)
    checkpoints.__exit__(ValueError, ValueError("the run's own end"), None)  # It raises nothing of its own.


def test_an_error_that_is_no_trouble_with_files_stays_what_it_is(tmp_path, monkeypatch):
    def broken(tree):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(writer, "digests", broken)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, VARIABLES, REST, {}, 0.5)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        checkpoints.__exit__(None, None, None)


def alone(monkeypatch):
    monkeypatch.setattr(snapshot, "has_room", lambda needed, stats: False)


def joined(monkeypatch):
    monkeypatch.setattr(processes, "is_multiprocess", lambda: True)


@pytest.mark.parametrize("why", [alone, joined])
def test_without_room_or_with_other_processes_the_training_waits(tmp_path, steps, monkeypatch, why):
    why(monkeypatch)
    steps.gate.set()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, VARIABLES, REST, {}, 0.5)
        assert steps.done[-3:] == ["digests", "digests", "written"]
        assert steps.threads == {threading.main_thread()}
        monkeypatch.undo()
    assert restored(tmp_path)[0] == 1
