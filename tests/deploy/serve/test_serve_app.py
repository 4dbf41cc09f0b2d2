"""What a running server answers: over a real socket, by a predictor whose answers are known."""

import base64
import dataclasses
import io
import json
import math
import re
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image
from serve_client import CLASSES, make_predictor, multipart, running

from jaxtl.deploy.serve.limits import Limits
from jaxtl.deploy.serve.listening import open_socket
from jaxtl.errors import UserError

LIMITS = Limits(megabytes=0.25, images=3, megapixels=0.1, receive_s=1.0, answer_s=5.0)


def cut_off():
    """Returns the first half of a file."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()[:6000]


def png(color, size=(12, 10)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def client():
    with running(limits=LIMITS, urls=True) as started:
        yield started


def test_logits_that_are_no_numbers_are_an_entry_and_no_failure_of_the_server():
    broken = dataclasses.replace(make_predictor(), combine=lambda found: np.full_like(found, np.nan))
    with running(broken) as client:
        status, found = client.post(png("red"))
    assert (status, found["error"][:25]) == (422, "its logits are not finite")


@pytest.mark.parametrize("color", CLASSES)
def test_the_answer_is_that_of_the_predictor(client, color):
    image = png({"green": "lime"}.get(color, color))
    expected = make_predictor()(image)
    status, found = client.post(image)
    assert (status, found) == (200, {"model": "means", "predictions": [{"index": 0, **expected}]})
    assert found["predictions"][0]["class"] == color


def test_the_same_images_in_all_ways(client):
    images = [png("red"), png("blue")]
    body, kind = multipart(
        [("image", "a.png", images[0]), ("anything", "../../etc/b.png", images[1]), ("top", None, b"2")]
    )
    status, found = client.post(body, kind)
    assert status == 200
    assert [(line["file"], line["class"], len(line["top2"])) for line in found["predictions"]] == [
        ("a.png", "red", 2),
        ("../../etc/b.png", "blue", 2),
    ]
    texts = [base64.b64encode(images[0]).decode(), "data:image/png;base64," + base64.b64encode(images[1]).decode()]
    status, found = client.post(json.dumps({"images": texts, "top": 1}).encode(), "application/json; charset=utf-8")
    assert status == 200
    assert [(line["index"], line["class"], len(line["top1"])) for line in found["predictions"]] == [
        (0, "red", 1),
        (1, "blue", 1),
    ]
    assert client.post(images[0], "image/anything", "/predict?top=3")[1]["predictions"][0]["top3"]


def test_an_image_that_cannot_be_read_does_not_stop_the_others(client):
    body, kind = multipart([("image", "a.png", png("red")), ("image", "b.png", cut_off()), ("image", "c", b"")])
    status, found = client.post(body, kind)
    assert status == 200
    assert ["error" in line for line in found["predictions"]] == [False, True, True]
    assert found["predictions"][2] == {"file": "c", "error": "the file is empty (0 bytes)"}
    status, found = client.post(cut_off())
    assert status == 422
    assert found["error"].startswith("the file cannot be decoded")


def test_a_text_that_has_no_encoding_comes_back_as_it_was(client):
    image, url = base64.b64encode(png("red")).decode(), "http://127.0.0.1/\ud800"
    status, found = client.post(*as_json(images=[image], urls=[url]))
    assert (status, found["predictions"][1]["file"]) == (200, url)


def as_json(**values):
    return json.dumps(values).encode(), "application/json"


@pytest.mark.parametrize(
    ("status", "message", "body", "kind"),
    [
        (400, "there is no image", b"{}", "application/json"),
        (400, "the body is no JSON", b"{", "application/json"),
        (400, "the body is no JSON", b"[" * 100_000, "application/json"),
        (400, "the body is no JSON", b"\xff\xfe", "application/json"),
        (400, "the body must be", b"[]", "application/json"),
        (400, "unknown: 'file'", *as_json(file="/etc/passwd")),
        (400, "images must be a list of texts", *as_json(images="abc")),
        (400, "images must be a list of texts", *as_json(images=[3])),
        (400, "an image is no base64", *as_json(images=["%%%%"])),
        (400, "an image is no base64", *as_json(images=["/etc/passwd ä"])),
        (400, "top must be a whole number above 0", *as_json(images=["aaaa"], top=0)),
        (400, "top must be a whole number above 0", *as_json(images=["aaaa"], top=True)),
        (400, "top must be a whole number above 0", *as_json(images=["aaaa"], top=[1])),
        (422, "cannot be fetched", *as_json(urls=["http://127.0.0.1/\ud800"])),
        (413, "there are 4 images, more than the 3", *as_json(images=["aaaa"] * 4)),
        (413, "Too many files", *multipart([("a", "a", b"x")] * 4)),
        (400, "the field 'other' is no file", *multipart([("other", None, b"x")])),
        (400, "the multipart body cannot be read", b"nothing of the kind", "multipart/form-data; boundary=x"),
        (400, "the multipart body cannot be read", b"--x\r\n\r\n", "multipart/form-data"),
        (415, "the content type 'text/html' is not taken", b"x", "text/html"),
        (415, "the content type '' is not taken", b"x", ""),
        (413, "the request has more than 0.25 MB", b"x" * 300_000, "image/png"),
        (422, "none of JPEG, PNG, WEBP", b"GIF is not what it says", "image/gif"),
        (422, "none of JPEG, PNG, WEBP", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image/png"),
        (422, "400 x 300 pixels, more than the 0.1 million", png("red", (400, 300)), "image/png"),
        (422, "HEIC", b"\x00\x00\x00\x18ftypheic" + b"\x00" * 20, "image/heic"),
    ],
)
def test_what_is_wrong_with_a_request_is_told(client, status, message, body, kind):
    found = client.post(body, kind)
    assert (found[0], message in found[1]["error"]) == (status, True), found


@pytest.mark.parametrize("top", ["0", "-1", "x", "1e3", "99999999", ""])
def test_a_top_in_the_address_that_is_no_number(client, top):
    assert client.post(png("red"), path=f"/predict?top={top}")[0] == 400


def test_a_body_that_grows_beyond_the_limit_is_not_read_to_its_end(client):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    found = client.raw(
        head + b"10000\r\n" + b"x" * 65536 + b"\r\n10000\r\n" + b"x" * 65536 + b"\r\n" + b"10000\r\n" * 1
    )
    assert b" 408 " in found  # It waits for the rest, no longer than it may.
    found = client.raw(head + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 5)
    assert b" 413 " in found


def test_slow_clients_are_let_go(client):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    began = time.monotonic()
    assert b" 408 " in client.raw(head + b"abc")
    assert client.raw(b"POST /predict HTTP/1.1\r\nHost:") == b""
    assert client.raw(b"") == b""
    assert time.monotonic() - began < 20  # Each a second; the client would wait for 30.


def test_nothing_of_this_machine_is_read(client, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png("red"))
    port = client.port
    urls = [
        *(f"file://{secret}", str(secret), f"ftp://127.0.0.1{secret}", f"http://127.0.0.1:{port}/"),
        *(f"http://localhost:{port}/", f"http://[::1]:{port}/", f"http://[::ffff:127.0.0.1]:{port}/"),
        *("http://169.254.169.254/latest/meta-data/", f"http://0.0.0.0:{port}/", f"http://2130706433:{port}/"),
    ]
    for url in urls:
        status, found = client.post(*as_json(urls=[url]))
        assert status == 422, url
        assert re.search("this machine|only http:// and https://", found["error"]), found
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", f"/predict/{secret}", "/static/x"):
        assert client.get(path)[0] == 404, path


def test_a_redirection_to_this_machine_is_not_followed(monkeypatch):
    """A public address that leads here: the name is public when it is looked up, and the answer points inwards."""
    from jaxtl.deploy import fetch

    served = socket.create_server(("127.0.0.1", 0))
    port = served.getsockname()[1]
    asked = []

    def answer():
        for _ in range(2):
            connection, _ = served.accept()
            asked.append(connection.recv(4096).split()[1])
            connection.sendall(f"HTTP/1.0 302 x\r\nLocation: http://inside.test:{port}/secret\r\n\r\n".encode())
            connection.close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    numbers = {"outside.test": "93.184.215.14", "inside.test": "127.0.0.1"}
    connect = socket.create_connection
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, *_, **__: [(2, 1, 6, "", (numbers[host], port))])

    def connect_here(place, *_):
        assert place == (numbers["outside.test"], port)  # By number: the name is not asked for again.
        monkeypatch.setitem(numbers, "127.0.0.1", "127.0.0.1")
        return connect(("127.0.0.1", port))

    monkeypatch.setattr(socket, "create_connection", connect_here)
    with pytest.raises(UserError, match=r"inside.test is this machine"):
        fetch.fetch(f"http://outside.test:{port}/photo.png", public_only=True)
    assert asked == [b"/photo.png"]
    served.close()


def test_addresses_are_fetched_only_if_that_is_allowed():
    with running(limits=LIMITS) as client:
        assert client.post(*as_json(urls=["http://127.0.0.1/x.png"])) == (
            403,
            {"error": "this server fetches no addresses: send the images themselves"},
        )
    with running(limits=LIMITS, urls=True, private_urls=True) as client:
        status, found = client.post(*as_json(urls=[f"http://127.0.0.1:{client.port}/health"]))
        assert (status, found["error"].startswith("the file is none of JPEG")) == (422, True)


def test_pages_say_what_is_there(client):
    assert client.get("/health") == (200, '{"status":"ok"}')
    assert client.get("/ready") == (200, '{"status":"ready"}')
    status, headers, page = client.ask("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "3 at most, 0.25 MB" in page.decode()
    document = json.loads(client.get("/openapi.json")[1])
    assert document["openapi"].startswith("3.1")
    answers = document["paths"]["/predict"]["post"]["responses"]
    # All that the tests here get, and no other.
    assert set(answers) == {"200", "400", "403", "408", "413", "415", "422", "503"}
    for path, methods in document["paths"].items():
        assert path in client.get("/docs")[1]
        for method in methods:
            assert client.ask(method.upper(), path)[0] not in (404, 405), path
    assert document["components"]["schemas"]["Answer"]["properties"]["predictions"]["items"]["properties"]["class"][
        "oneOf"
    ][0] == {"enum": list(CLASSES)}
    assert client.ask("DELETE", "/predict")[0] == 405


def test_metrics_count_what_was_asked():
    with running(limits=LIMITS) as client:
        client.post(png("red"))
        client.post(*as_json(images=[base64.b64encode(png("red")).decode(), "aaaa"]))
        client.post(b"x", "text/html")
        found = dict(line.rsplit(" ", 1) for line in client.get("/metrics")[1].splitlines() if line[0] != "#")
    assert found['jaxtl_requests_total{status="200"}'] == "2.0"
    assert found['jaxtl_requests_total{status="415"}'] == "1.0"
    assert found['jaxtl_images_total{outcome="predicted"}'] == "2.0"
    assert found['jaxtl_images_total{outcome="unreadable"}'] == "1.0"
    assert found["jaxtl_request_seconds_count"] == "3.0"
    assert found["jaxtl_batch_images_sum"] == "2.0"
    assert (found["jaxtl_ready"], found["jaxtl_waiting_images"]) == ("1.0", "0.0")


def slowed(seconds, batch_size=2):
    """Returns a predictor that takes so many seconds for a batch, once it is warm."""

    def combine(found):
        time.sleep(seconds)
        return found

    return dataclasses.replace(make_predictor(batch_size), combine=combine)


def test_what_was_accepted_is_answered_after_the_end_was_asked_for():
    with running(slowed(0.3)) as client:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(client.post(png("red")))) for _ in range(6)]
        for thread in threads:
            thread.start()
        while client.service.batcher.accepted < 6:
            time.sleep(0.01)
        client.server.stop()
        for thread in threads:
            thread.join()
        assert [status for status, _ in answers] == [200] * 6
        until_closed = iter(lambda: client.get("/ready")[0], None)
        with pytest.raises(ConnectionError):
            list(until_closed)


def test_who_would_wait_too_long_is_told_to_come_again():
    with running(slowed(0.4), Limits(latency_ms=500, answer_s=30)) as client:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(client.post(png("red")))) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = sorted(status for status, _ in answers)
        assert set(statuses) == {200, 503}
        assert {found["error"] for status, found in answers if status == 503} == {
            "too many images are waiting: come again"
        }
        assert client.get("/ready")[0] == 200


def test_where_nothing_can_be_computed_it_ends_and_says_why():
    def combine(found):
        raise RuntimeError("no memory is left")

    pytest.importorskip("starlette")
    from jaxtl.deploy.serve.app import Service
    from jaxtl.deploy.serve.server import Server

    service = Service(dataclasses.replace(make_predictor(), combine=combine), LIMITS)
    with pytest.raises(RuntimeError, match="no memory is left"):
        Server(service).run_on(open_socket("127.0.0.1", 0))


def test_of_a_request_that_fails_no_image_is_computed_later():
    """The first image fails, the second is being computed then, and the third is waited for by nobody."""
    ready, answered, calls = threading.Event(), threading.Event(), []

    def combine(found):
        if ready.is_set():
            calls.append(len(found))
            if len(calls) == 1:
                raise RuntimeError("the device has failed")
            assert answered.wait(60)
        return found

    with running(dataclasses.replace(make_predictor(1), combine=combine)) as client:
        ready.set()
        body, kind = multipart([("image", "a", png("red"))] * 3)
        assert client.post(body, kind) == (500, {"error": "a mistake of the server, which its log tells"})
        assert client.service.batcher.accepted == 0
        answered.set()
    assert len(calls) <= 2


def test_no_request_waits_for_ever():
    with running(slowed(1.0), Limits(answer_s=0.2, latency_ms=60_000)) as client:
        status, found = client.post(png("red"))
        assert (status, found["error"]) == (503, "there was no answer within 0.2 s: come again")


def test_many_threads_get_what_the_predictor_says():
    generator, predictor = np.random.default_rng(0), make_predictor()
    images = []
    for _ in range(24):
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 255, (20, 24, 3), np.uint8)).save(file, "PNG")
        images.append(file.getvalue())
    expected = [predictor.logits(image) for image in images]
    found = {}
    with running() as client:

        def ask(i):
            body, kind = multipart([("image", "a", images[i]), ("image", "b", images[(i + 1) % 24])])
            found[i] = client.post(body, kind)[1]["predictions"]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i in range(24):
        for line, logits in zip(found[i], (expected[i], expected[(i + 1) % 24]), strict=True):
            said = predictor.judge(logits)
            assert line["class"] == said["class"]
            assert line["probability"] == pytest.approx(said["probability"], abs=2e-6)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [("127.0.0.1", -1, "port is -1"), ("127.0.0.1", 70000, "port is 70000"), ("no host", 0, "has no address")],
)
def test_no_such_place(host, port, message):
    with pytest.raises(UserError, match=message):
        open_socket(host, port)


def test_a_port_in_use():
    with open_socket("127.0.0.1", 0) as first, pytest.raises(UserError, match=r"port \d+ of 127.0.0.1 is in use"):
        open_socket("127.0.0.1", first.getsockname()[1])


@pytest.mark.parametrize("field", ["megabytes", "images", "megapixels", "connections", "receive_s", "latency_ms"])
def test_limits_are_above_zero(field):
    with pytest.raises(UserError, match=rf"{field} is 0, but it must be above 0"):
        Limits(**{field: 0})
    assert Limits(delay_ms=0).delay_ms == 0


@pytest.mark.parametrize("field", ["megabytes", "total_megabytes", "answer_s", "delay_ms"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_limits_are_finite(field, value):
    with pytest.raises(UserError, match=rf"{field} is {value:g}, but it must be (above|at least) 0, and finite"):
        Limits(**{field: value})
