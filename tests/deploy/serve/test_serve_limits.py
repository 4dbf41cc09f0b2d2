"""What a server holds of its clients, and how long: bytes, and connections."""

import contextlib
import http.server
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from serve_client import blocked

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
