"""A thousand requests that are wrong in every way: no answer is a mistake of the server, nothing is left."""

import base64
import gc
import io
import json
import os
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from serve_client import multipart, running

from jaxtl.deploy.serve.limits import Limits

pytestmark = pytest.mark.slow
LIMITS = Limits(megabytes=1, images=4, megapixels=1, receive_s=0.5, answer_s=10, total_megabytes=16)
REQUESTS = 1000


def encoded(kind, size=(40, 30)):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (*size, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def bomb(width, height):
    """Returns a PNG of a few kB that decodes to width x height pixels."""

    def chunk(kind, data):
        checked = kind + data
        return len(data).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes((width // 8 + 1) * min(height, 2000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


BOMBS = [bomb(*size) for size in ((2_000, 2_000), (20_000, 30_000), (100_000, 100_000))]
WHOLE = {kind: encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}


def spoilt(generator):
    """Returns bytes of an image in which something is wrong."""
    image = bytearray(WHOLE[generator.choice(list(WHOLE))])
    how = generator.integers(5)
    if how == 0:
        return bytes(image[: generator.integers(0, len(image))])
    if how == 1:
        for at in generator.integers(0, len(image), 20):
            image[at] = generator.integers(256)
        return bytes(image)
    if how == 2:
        return BOMBS[generator.integers(len(BOMBS))]
    return generator.bytes(int(generator.integers(0, 2000))) if how == 3 else bytes(image[:40]) + bytes(5000)


def request(generator):
    """Returns the bytes of a request."""
    how = int(generator.integers(10))
    length = None
    if how == 0:
        body, kind = multipart([("image", "a", spoilt(generator))])
    elif how == 1:
        body, kind = multipart([("image", "a", spoilt(generator)), ("image", "../b", spoilt(generator))])
        body = body[: int(generator.integers(len(body)))]
    elif how == 2:
        text = base64.b64encode(spoilt(generator)).decode()
        body, kind = (
            json.dumps({"images": [text], "top": [None, "x", -1, {}, 2.5][generator.integers(5)]}),
            "application/json",
        )
    elif how == 3:
        body, kind = (
            generator.choice(['{"images":', "[" * 5000, "null", '{"urls": ["file:///etc/passwd"]}', "\x00"]),
            "application/json",
        )
    elif how == 4:
        body, kind = (
            spoilt(generator),
            generator.choice(["text/html", "", "multipart/form-data", "image/png; x=" + "y" * 500]),
        )
    elif how == 5:
        body, kind, length = spoilt(generator), "image/png", int(generator.integers(0, 3_000_000))
    elif how == 6:
        return generator.bytes(int(generator.integers(1, 300))) + b"\r\n\r\n"
    elif how == 7:
        return (
            b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: image/png\r\n\r\nzz\r\n"
        )
    elif how == 8:
        return b"GET /predict HTTP/1.1\r\nX: " + b"y" * int(generator.integers(100_000)) + b"\r\n\r\n"
    else:
        body, kind = spoilt(generator), "image/jpeg"
    body = body.encode() if isinstance(body, str) else bytes(body)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def held():
    """Returns threads, open files and the memory of this process in MB."""
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return threading.active_count(), len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_none_is_a_mistake_of_the_server_and_nothing_is_left(recwarn):
    with running(limits=LIMITS, urls=True) as client, ThreadPoolExecutor(16) as pool:

        def ask(seed):
            answer = client.raw(request(np.random.default_rng(seed)))
            return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0

        list(pool.map(ask, range(REQUESTS, REQUESTS + 200)))  # What is imported and allocated once.
        before = held()
        statuses = list(pool.map(ask, range(REQUESTS)))
        threads, files, memory = held()
        found = {status: statuses.count(status) for status in set(statuses)}
        assert 500 not in found, found
        assert {400, 408, 413, 415, 422} <= set(found), found
        assert client.post(WHOLE["PNG"])[0] == 200
        assert client.get("/ready")[0] == 200
        assert client.service.batcher.accepted == 0
        assert client.service.held.bytes == 0
    assert threads <= before[0] + 8  # Those that fetch addresses begin when they are needed.
    assert files <= before[1] + 16  # Of connections that are about to close.
    assert memory < before[2] + 50, (before, memory)
