"""What a server holds of its clients, and how long: bytes, and connections."""

import contextlib
import http.client
import http.server
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from serve_client import blocked, running

from jaxtl.deploy.serve.limits import Limits


def noise():
    """Returns a file of 0.66 MB, of which one fits into the limit of a megabyte, and two do not."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (480, 480, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


NOISE = noise()
COME_AGAIN = (503, {"error": "too many requests at a time: come again"})


@pytest.fixture(scope="module")
def address():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(ConnectionError):
                self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + NOISE)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/noise.png"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("way", ["sent", "fetched"])
def test_bytes_are_held_until_the_answer(way, address, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    urls = json.dumps({"urls": [address]}).encode(), "application/json"
    limits = Limits(total_megabytes=1)
    with blocked(limits, urls=True, private_urls=True) as (client, free), ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, *((NOISE,) if way == "sent" else urls))
        while not client.service.batcher.accepted:
            time.sleep(0.01)
        assert client.service.held.bytes == len(NOISE) + (len(urls[0]) if way == "fetched" else 0)
        assert client.post(NOISE) == COME_AGAIN
        assert client.post(*urls) == COME_AGAIN
        free.set()
        assert first.result()[0] == 200
        assert client.service.held.bytes == 0
        assert client.post(NOISE)[0] == 200
        # By itself it would be refused again and again.
        found = client.post(json.dumps({"urls": [address] * 2}).encode(), "application/json")
        assert found == (413, {"error": "the images of the request have more than 1 MB"})
        assert client.service.held.bytes == 0


def status(connection):
    """Reads one whole answer, of as many packets as it comes in, and returns its status."""
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        response.read()
        return response.status


def ends(connection):
    """Sends a byte, and tells whether the other end closes within the time of the socket."""
    try:
        connection.sendall(b"x")
        return connection.recv(65536) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def until_all_are_gone(client):
    """Returns once the server holds no connection and answers none; after 30 seconds, it fails."""
    state = client.server.server_state
    for _ in range(600):
        if not state.connections and not state.tasks:
            return
        time.sleep(0.05)
    raise AssertionError((state.connections, state.tasks))


def test_so_many_connections_are_answered_at_a_time():
    with running(limits=Limits(connections=2, receive_s=60)) as client:
        place = ("127.0.0.1", client.port)
        with socket.create_connection(place):
            assert client.get("/health")[0] == 200
            with socket.create_connection(place):
                assert client.get("/health") == (503, "Service Unavailable")
        until_all_are_gone(client)
        assert client.get("/health")[0] == 200


def test_a_body_that_nobody_reads_is_waited_for_as_long_as_any():
    head = b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with running(limits=Limits(receive_s=2)) as client:
        with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
            connection.sendall(head)
            assert status(connection) == 200
            connection.settimeout(0.1)
            assert any(ends(connection) for _ in range(300))  # Half a minute, and less than the body.
        with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
            # What has sent all of it may ask again.
            connection.sendall(head)
            assert status(connection) == 200
            connection.sendall(b"x" * 1000 + head)
            assert status(connection) == 200


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("times", [1, 3])
def test_an_answer_that_nobody_takes_is_not_kept(close, times):
    """The answer says the address again, and is larger than what the network takes by itself."""
    body = json.dumps({"urls": ["none://" + "x" * 12_000_000, "none://"]}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with running(limits=Limits(receive_s=2), urls=True) as client:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(30)
            connection.connect(("127.0.0.1", client.port))
            with contextlib.suppress(ConnectionError):
                connection.sendall((head.encode() + close + b"\r\n" + body) * times)
            until_all_are_gone(client)
        assert client.get("/health")[0] == 200
