"""The serve command as a process of its own: what it says before it serves, and how it ends."""

import contextlib
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from jaxtl.experiment import serving

EXTRA = all(importlib.util.find_spec(name) for name in serving._NEEDED)
needs_extra = pytest.mark.skipif(not EXTRA, reason="the extra is missing: pip install -e '.[serve]'")


@pytest.fixture
def run(plain):
    return plain / "run"


@contextlib.contextmanager
def served(*flags):
    """Starts the command; gives the process and the port once it is ready."""
    command = [sys.executable, "-m", "jaxtl.main", "serve", "--port=0", *map(str, flags)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        for line in process.stdout:
            if found := re.match(r"ready: http://127.0.0.1:(\d+)/", line):
                break
        else:
            raise AssertionError(process.communicate())
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()
        process.stdout.close()
        process.stderr.close()


@pytest.mark.slow
@needs_extra
def test_it_says_what_predict_says_and_ends_well_at_sigterm(run, pictures, jaxtl):
    images = sorted((pictures / "test").rglob("*.png"))[:3]
    status, out, _ = jaxtl("predict", f"--workdir={run}", *images)
    assert status == 0
    expected = [json.loads(line) for line in out.splitlines()]
    with served(f"--workdir={run}", "--batch_size=4") as (process, port), contextlib.ExitStack() as closing:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        closing.callback(connection.close)
        for image, line in zip(images, expected, strict=True):
            connection.request("POST", "/predict", image.read_bytes(), {"Content-Type": "image/png"})
            (found,) = json.loads(connection.getresponse().read())["predictions"]
            assert found["class"] == line["class"]
            assert found["probability"] == pytest.approx(line["probability"], abs=1e-5)
        # A request that is half sent when the end is asked for is answered all the same.
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
        body = images[0].read_bytes()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as half:
            half.sendall(head % len(body) + body[:10])
            connection.request("GET", "/health")
            assert connection.getresponse().read() == b'{"status":"ok"}'
            process.send_signal(signal.SIGTERM)
            half.sendall(body[10:])
            answer = b"".join(iter(lambda: half.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert expected[0]["class"].encode() in answer
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert out.endswith("stopped; what was accepted is answered\n")


def test_one_line_for_each_thing_that_is_missing(jaxtl, run, tmp_path, monkeypatch):
    if EXTRA:
        (tmp_path / "empty").mkdir()
        for flags, message in [
            ((f"--workdir={tmp_path / 'gone'}",), "there is no "),
            ((f"--workdir={tmp_path / 'empty'}",), "should hold one weight file"),
            ((f"--workdir={run}", "--host=no.such.host.test"), "has no address"),
            ((f"--workdir={run}", "--port=99999"), "port is 99999"),
            ((f"--workdir={run}", "--batch_size=0"), "batch_size is 0"),
            ((f"--workdir={run}", "--megapixels=0"), "megapixels is 0"),
            ((f"--workdir={run}", "--allow_private_urls"), "give --allow_urls, too"),
            ((f"--workdir={run}", "--reject_below=2"), "it must be a probability"),
            ((f"--workdir={run}", "--operating_points"), "there is no"),
            ((f"--workdir={run}", "--config.train.epochs=2"), "takes no --config.train.epochs"),
        ]:
            port = () if any(flag.startswith("--port") for flag in flags) else ("--port=0",)
            status, out, err = jaxtl("serve", *port, *flags)
            assert (status, out) == (1, ""), flags
            assert message in err, err
            assert err.count("\n") == 1, err
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            status, out, err = jaxtl("serve", f"--workdir={run}", f"--port={port}")
        assert (status, out) == (1, "")
        assert err == f"error: port {port} of 127.0.0.1 is in use: stop what serves there, or give another port.\n"
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("uvicorn", "starlette") else find(name)
    )
    status, out, err = jaxtl("serve", f"--workdir={run}", "--port=0")
    assert (status, out) == (1, "")
    assert (
        err == "error: serve needs starlette, uvicorn, which are not installed: pip install 'jaxtl[serve]'\n"
        or not EXTRA
    )
    assert "pip install 'jaxtl[serve]'" in err
