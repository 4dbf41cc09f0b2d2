"""What several processes agree on: alone, with the others' answers given, and between real processes."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax._src.distributed import global_state

from jaxtl.errors import UserError
from jaxtl.parallel import processes


def test_the_end_waits_for_the_listener_to_leave_the_client(monkeypatch):
    inside, calls = threading.Event(), []

    class Client:
        def key_value_dir_get(self, _):
            inside.set()
            time.sleep(0.3)
            calls.append("left")
            return []

    monkeypatch.setattr(global_state, "client", Client())
    over = threading.Event()
    listener = threading.Thread(target=processes._listen, args=(over,), daemon=True)
    listener.start()
    assert inside.wait(10)
    processes._stop_listening(listener, over)
    assert calls == ["left"]
    assert not listener.is_alive()


def test_a_process_alone_waits_for_nobody():
    assert processes.is_main()
    assert not processes.is_multiprocess()
    assert processes.gather("x" * 5000) == ["x" * 5000]
    assert (processes.all_true(True), processes.all_true(False)) == (True, False)
    processes.check_alike("config", {"seed": object()})
    vote = processes.Vote()
    assert [vote.any(flag) for flag in (False, True, False)] == [False, True, False]


def complain(text):
    raise UserError(text)


def test_a_check_of_a_process_alone_says_what_it_finds_and_no_number():
    processes.on_all_processes(lambda: None)
    with pytest.raises(UserError, match=r"^no such file$"):
        processes.on_all_processes(lambda: complain("no such file"))


def test_a_check_names_the_processes_that_fail(monkeypatch):
    monkeypatch.setattr(processes, "gather", lambda text="": ["", text, "disk full"])
    with pytest.raises(UserError, match=r"^process 1: no such file\nprocess 2: disk full$"):
        processes.on_all_processes(lambda: complain("no such file"))
    with pytest.raises(UserError, match=r"^process 2: disk full$"):
        processes.on_all_processes(lambda: None)
    monkeypatch.setattr(processes, "gather", lambda text="": ["", text])
    processes.on_all_processes(lambda: None)
    with pytest.raises(ZeroDivisionError):  # A bug of ours is not turned into a line.
        processes.on_all_processes(lambda: 1 / 0)


def test_what_differs_is_named_with_the_processes_that_have_it(monkeypatch):
    monkeypatch.setattr(processes, "is_multiprocess", lambda: True)

    def marks(values):
        """What `check_alike` sends for some values."""
        sent = []
        monkeypatch.setattr(processes, "gather", lambda text="": sent.append(text) or [text])
        processes.check_alike("config", values)
        return sent[0]

    ours, theirs = {"seed": 1, "steps": 5, "name": "vit"}, {"seed": 2, "steps": 5, "name": "resnet"}
    everybody = [marks(ours), marks(theirs), marks(ours), marks(theirs)]
    monkeypatch.setattr(processes, "gather", lambda text="": everybody)
    with pytest.raises(
        UserError, match=r"^config: process 1 and 3 differs from process 0 in seed, name: start all processes alike.$"
    ):
        processes.check_alike("config", ours)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("10.0.0.1:1234",), "--coordinator=10.0.0.1:1234 --processes=0 --process-id=-1: give all three"),
        (("", 2, 0), "--coordinator=? --processes=2 --process-id=0: give all three"),
        (("10.0.0.1", 2, 0), "the first lacks a port"),
        ((":1234", 2, 0), "the first lacks a port"),
        (("10.0.0.1:port", 2, 0), "the first lacks a port"),
        (("10.0.0.1:1234", 2, 2), "the last counts from 0"),
    ],
)
def test_an_address_that_is_not_whole_is_refused_at_once(given, message):
    with pytest.raises(UserError) as error:
        processes.connect(*given)
    assert message in str(error.value)
    assert str(error.value).endswith("as in --coordinator=10.0.0.1:1234 --processes=2 --process-id=0 and =1.")


def test_a_process_without_an_address_stays_alone(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("joined others"))
    for name in processes._SLURM:
        monkeypatch.setenv(name, "1")  # One task of SLURM is no run of several.
    monkeypatch.setattr(processes, "_on_tpu", lambda: False)
    processes.connect()


def chained(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("give another path"), 1),
        (ValueError("a bug"), 1),
        (jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out"), 76),
        (chained(ValueError("while saving"), jax.errors.JaxRuntimeError("UNAVAILABLE: peer is gone")), 76),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_failed_collective_has_a_status_of_its_own(error, status):
    assert processes.status_of(error) == status


def test_memory_that_runs_out_is_for_a_person_to_fix():
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        jax.jit(lambda: jnp.zeros((2**40, 2**8)))().block_until_ready()
    assert processes.status_of(error.value) == processes.status_of(chained(ValueError("step 3"), error.value)) == 1


def test_another_process_that_ends_is_named_and_followed(monkeypatch, capfd):
    client = SimpleNamespace(
        key_value_dir_get=lambda _: [("jaxtl/ends/1", "1 give another path")], wait_at_barrier=lambda *_: None
    )
    monkeypatch.setattr(global_state, "client", client)
    monkeypatch.setattr(global_state, "process_id", 2)
    monkeypatch.setattr(processes, "_exit", lambda status: (_ for _ in ()).throw(SystemExit(status)))
    monkeypatch.setattr(processes, "_parting", threading.Lock())
    with pytest.raises(SystemExit) as end:
        processes._listen(threading.Event())
    assert end.value.code == 1
    assert "process 1 cannot go on: give another path" in capfd.readouterr().err


def start(*arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ends(started):
    """Waits for processes; returns the status and the last line on each output."""
    found = []
    for process in started:
        with process:
            try:
                out, err = process.communicate(timeout=120)
            finally:
                process.kill()
        found.append((process.returncode, out.splitlines(), err.splitlines()))
    return found


@pytest.mark.slow
def test_two_processes_hear_each_other():
    port = free_port()
    found = ends([start(port, 2, number) for number in range(2)])
    assert [status for status, _, _ in found] == [0, 0], found
    for number, (_, out, _) in enumerate(found):
        heard = json.loads(out[-1])
        assert heard["main"] == (number == 0)
        assert heard["names"] == ["process 0", "process 1"]
        # 1024 bytes, the last character of which is not cut in half.
        assert heard["long"] == ["ä" * 510 + " …"] * 2
        assert heard["all"] == [True, False]
        assert heard["differ"] == "config: process 1 differs from process 0 in seed: start all processes alike."
        assert heard["check"] == "process 1: no such file"
        # An answer holds for the question before.
        assert heard["votes"] == [False, True, False]


@pytest.mark.slow
def test_a_process_whose_peers_do_not_come_ends_in_time():
    address = free_port()
    ((status, _, err),) = ends([start(address, 2, 0, 1)])
    assert status == 76
    assert err[-1] == (
        f"error: process 0 of 2 at 127.0.0.1:{address}: not all processes had come together after 1 s; "
        "is each of them running, and is the address reachable?"
    )


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def said(check):
    try:
        check()
    except UserError as error:
        return str(error)
    return ""


def converse(port, count, number, timeout=60):
    """What one of several processes hears, as JSON."""
    processes.connect(f"127.0.0.1:{port}", count, number, timeout=timeout)
    vote = processes.Vote()
    print(
        json.dumps(
            {
                "main": processes.is_main(),
                "names": processes.gather(f"process {number}"),
                "long": processes.gather("ä" * 600),
                "all": [processes.all_true(True), processes.all_true(number == 0)],
                "differ": said(lambda: processes.check_alike("config", {"steps": 5, "seed": number})),
                "check": said(lambda: processes.on_all_processes(lambda: number and complain("no such file"))),
                "votes": [vote.any(number == 1 and question == 0) for question in range(3)],
            }
        )
    )


if __name__ == "__main__":
    converse(*map(int, sys.argv[1:]))
