"""A service on a predictor of means, run by a thread of its own, and what speaks with it."""

import contextlib
import dataclasses
import http.client
import json
import socket
import threading
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.data.decode import eval_view
from jaxtl.deploy.judge import Judge
from jaxtl.deploy.predictor import Predictor
from jaxtl.deploy.programs import Programs
from jaxtl.deploy.serve.limits import Limits
from jaxtl.deploy.serve.listening import open_socket
from jaxtl.preprocessing import Pixels

CLASSES = ("red", "green", "blue")
PIXELS = Pixels(8, 8, (0.0,) * 3, (1.0,) * 3, "nearest")


def means(variables, images):
    """Gives the mean of each channel, of 10: the likeliest class is the brightest channel."""
    return variables * images.astype(jnp.float32).mean((1, 2)) / 10


def make_predictor(batch_size=4):
    view = partial(eval_view, pixels=PIXELS)
    programs = Programs(means, np.float32(1), batch_size)
    return Predictor("means", Judge(CLASSES), view, programs, programs, facts={"model": "means"})


@contextlib.contextmanager
def running(predictor=None, limits=None, **options):
    """Serves within; gives a client. Skips where the extra is missing."""
    for needed in ("starlette", "uvicorn", "python_multipart", "prometheus_client"):
        pytest.importorskip(needed)
    from jaxtl.deploy.serve.app import Service
    from jaxtl.deploy.serve.server import Server

    listening = open_socket("127.0.0.1", 0)
    service = Service(predictor or make_predictor(), limits or Limits(), **options)
    server, ready = Server(service), threading.Event()
    client = Client(listening.getsockname()[1], service, server)
    thread = threading.Thread(target=server.run_on, args=(listening, ready.set))
    thread.start()
    try:
        assert ready.wait(120)
        yield client
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive()


@contextlib.contextmanager
def blocked(limits=None, **options):
    """Serves within what computes nothing until an event is set; gives a client and the event."""
    ready, free = threading.Event(), threading.Event()

    def combine(found):
        assert not ready.is_set() or free.wait(60)
        return found

    with running(dataclasses.replace(make_predictor(), combine=combine), limits, **options) as client:
        ready.set()
        try:
            yield client, free
        finally:
            free.set()


class Client:
    """Asks a server on this machine."""

    def __init__(self, port, service=None, server=None):
        self.port, self.service, self.server = port, service, server

    def ask(self, method, path, body=None, headers=(), timeout=60):
        """Returns status, headers and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def get(self, path):
        """Returns status and body of a page."""
        status, _, body = self.ask("GET", path)
        return status, body.decode()

    def post(self, body, kind="image/png", path="/predict"):
        """Returns status and what the JSON of an answer holds."""
        status, _, body = self.ask("POST", path, body, {"Content-Type": kind})
        return status, json.loads(body)

    def raw(self, sent, timeout=30):
        """Sends bytes as they are, and returns all that comes back until the other end closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
            found = b""
            with contextlib.suppress(ConnectionError, TimeoutError):
                while more := connection.recv(65536):
                    found += more
            return found


def multipart(parts, boundary="b0undary"):
    """Returns body and content type of parts (field, filename or None, bytes)."""
    body = b""
    for field, name, content in parts:
        named = f'; filename="{name}"' if name is not None else ""
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"{named}\r\n\r\n'.encode() + content
        body += b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
