"""A real SIGTERM to this process: it is noted at once, the time to the end runs, and the signal is given back."""

import os
import signal
import threading
import time

import pytest

from jaxtl.train import preemption
from jaxtl.train.preemption import Preemption

LIMIT = 60  # Seconds that nothing here takes: a test that would hang fails.


@pytest.fixture(autouse=True)
def own_signals():
    """Gives the signals back to pytest, whatever a test leaves."""
    before = signal.getsignal(signal.SIGTERM)
    descriptor = signal.set_wakeup_fd(-1)
    yield
    signal.signal(signal.SIGTERM, before)
    signal.set_wakeup_fd(descriptor)


@pytest.fixture
def ended(monkeypatch):
    """The statuses that the process was to end with, of which it keeps living."""
    statuses = []
    monkeypatch.setattr(preemption.os, "_exit", statuses.append)
    yield statuses
    until(lambda: not watchers())  # None may end the process once the true exit is back.


def until(condition):
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def watchers():
    return [thread for thread in threading.enumerate() if thread.name == "jaxtl-preemption"]


def test_sigterm_is_noted_and_the_process_ends_in_time_whatever_it_does(ended, capfd):
    with Preemption(grace=0.2) as stop:
        assert not stop.requested()
        sent = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
        until(stop.requested)
        assert stop.requested()  # It stays so.
        until(lambda: ended)
        assert time.monotonic() - sent >= 0.2
    assert ended == [os.EX_TEMPFAIL]
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["SIGTERM: saves and ends", "not done 0.2 s after SIGTERM: ends as it is"]


def test_once_it_has_come_the_signal_is_ignored_to_the_end(ended):
    with Preemption(grace=0.3) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        until(stop.requested)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGTERM)  # As who starts the processes may send it again.
    until(lambda: ended)  # The time goes on running after all is left.
    assert ended == [os.EX_TEMPFAIL]


def test_without_a_signal_everything_is_as_it_was():
    def mine(*_):
        pass

    signal.signal(signal.SIGTERM, mine)
    here, there = os.pipe()
    os.set_blocking(there, False)
    signal.set_wakeup_fd(there)
    open_files = len(os.listdir("/proc/self/fd"))
    with Preemption() as stop:
        assert signal.getsignal(signal.SIGTERM) is not mine
        assert len(watchers()) == 1
        assert not stop.requested()
    del stop
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.set_wakeup_fd(-1) == there
    assert not watchers()
    assert len(os.listdir("/proc/self/fd")) == open_files
    for descriptor in (here, there):
        os.close(descriptor)


def test_an_error_gives_the_signal_back_too():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), Preemption():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before
    assert not watchers()


def test_other_signals_are_none_of_its_business():
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with Preemption(grace=LIMIT) as stop:
            for _ in range(100):  # More than are read at a time.
                os.kill(os.getpid(), signal.SIGUSR1)
            until(lambda: heard)
            time.sleep(0.02)
            assert not stop.requested()
            assert len(watchers()) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert set(heard) == {signal.SIGUSR1}


def test_in_another_thread_it_leaves_signals_alone():
    """Python lets the main thread alone take a signal over."""
    found = []
    before = signal.getsignal(signal.SIGTERM)

    def work():
        with Preemption() as stop:
            found.append((signal.getsignal(signal.SIGTERM) is before, stop.requested(), watchers()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(True, False, [])]
    assert signal.getsignal(signal.SIGTERM) is before
