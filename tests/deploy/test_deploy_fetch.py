import contextlib
import http.server
import os
import socket
import threading
import time

import pytest

from jaxtl.deploy.fetch import fetch, is_address, is_public
from jaxtl.errors import UserError

# Paths whose slow part somebody waited for.
WAITED_FOR = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/moved.png":
            self.send_response(302)
            self.send_header("Location", "/photo.png")
            self.end_headers()
        elif self.path == "/away.png":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1:1/photo.png")
            self.end_headers()
        elif self.path == "/slow.png":
            time.sleep(0.5)
        elif self.path == "/drips.png":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # Nobody waits for the rest.
                for _ in range(8):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
        elif self.path == "/head.png":
            self.drip(b"HTTP/1.0 200 OK\r\nX-Slow: " + b"x" * 200, b"\r\n\r\nphoto")
        elif self.path == "/chunk.png":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.drip(b"5; x=" + b"x" * 200, b"\r\nphoto\r\n0\r\n\r\n")
        elif self.path.startswith("/hop"):
            hops = int(self.path[4])
            time.sleep(0.3)
            self.send_response(302)
            self.send_header("Location", f"/hop{hops - 1}.png" if hops else "/photo.png")
            self.end_headers()
        elif self.path in ("/photo.png", "/short.png"):
            self.send_response(200)
            self.send_header("Content-Length", str(1000 if self.path == "/photo.png" else 1500))
            self.end_headers()
            WAITED_FOR.append(self.path)
            self.wfile.write(b"p" * 1000)
        else:
            self.send_error(404)

    def drip(self, slow, rest):
        """Sends bytes one by one, and then the rest, as long as somebody waits."""
        with contextlib.suppress(ConnectionError):
            for byte in slow:
                time.sleep(0.02)
                self.wfile.write(bytes([byte]))
            WAITED_FOR.append(self.path)
            self.wfile.write(rest)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def test_what_lies_there_and_where_it_has_moved_to(server):
    assert fetch(f"{server}/photo.png") == b"p" * 1000
    assert fetch(f"{server}/moved.png") == b"p" * 1000


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("/none.png", {}, "the server answered 404 Not Found; is the address right?"),
        ("/slow.png", {"patience": 0.1}, "the address did not answer within 0.1 s"),
        ("/drips.png", {"seconds": 0.1}, "did not give all of the file in 0.1 s; download it first"),
        ("/photo.png", {"limit": 999}, "the address has more than 0 MiB, too much for an image"),
        ("/short.png", {}, "the connection ended 500 bytes before the end of the file; try again"),
    ],
)
def test_what_goes_wrong(server, path, options, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        fetch(server + path, **options)


@pytest.mark.parametrize("path", ["/head.png", "/chunk.png", "/hop8.png"])
def test_the_time_is_that_of_all_of_it_and_not_of_one_read(server, path):
    WAITED_FOR.clear()
    with pytest.raises(UserError, match=r"did not give all of the file in 0.3 s; download it first"):
        fetch(server + path, seconds=0.3)
    assert not WAITED_FOR


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_time_ends_where_nothing_is_said(scheme):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UserError, match=r"did not give all of the file in 0.2 s; download it first"):
            fetch(f"{scheme}://127.0.0.1:{port}/photo.png", seconds=0.2)


def test_no_thread_and_no_connection_is_left(server):
    def left():
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = left()
    for _ in range(20):
        fetch(f"{server}/moved.png")
        with pytest.raises(UserError):
            fetch(f"{server}/hop8.png", seconds=0.01)
    for _ in range(600):  # Those of the server end a little later.
        if more := [now - was for now, was in zip(left(), before, strict=True) if now > was]:
            time.sleep(0.05)
    assert not more


def test_nobody_there_and_other_kinds_of_addresses():
    with pytest.raises(UserError, match=r"cannot be fetched: .*refused"):
        fetch("http://127.0.0.1:1/photo.png")
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch("http://[/photo.png")
    for address in ("gs://bucket/photo.png", "file:///etc/passwd", "ftp://there/photo.png"):
        with pytest.raises(UserError, match="only http:// and https:// addresses are fetched; download it"):
            fetch(address)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1111", True),
        ("64:ff9b::5db8:d70e", True),  # NAT64 of 93.184.215.14.
        ("2002:5db8:d70e::1", True),  # 6to4 of it.
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("fec0::2", False),  # Site-local.
        ("64:ff9b:1::7f00:1", False),  # NAT64 of a network's own.
        ("::ffff:0:7f00:1", False),  # 127.0.0.1, translated.
        ("::127.0.0.1", False),
        ("::", False),
        ("ff0e::1", False),  # Multicast.
        ("192.0.0.192", False),
        ("224.0.0.1", False),
        ("100.100.100.200", False),
    ],
)
def test_which_numbers_are_public(text, public):
    assert is_public(text) is public


def test_addresses_and_paths():
    assert is_address("https://there/photo.png")
    assert not is_address("C:/photos/a.png")
    assert not is_address("photos//a.png")


def test_a_redirection_leads_nowhere_but_to_the_web(server):
    with pytest.raises(UserError, match=r"the address leads on to ftp:, which is not fetched"):
        fetch(f"{server}/away.png")
