"""Fetches one image from an address: in bounded time, and no more than an image is large."""

import contextlib
import http.client
import ipaddress
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import Any

from jaxtl import __version__
from jaxtl.errors import UserError

SCHEMES = ("http://", "https://")
_CHUNK = 1 << 16


def is_address(text: str) -> bool:
    """Tells whether text is an address, of whatever kind, and no path."""
    return "://" in text


def fetch(
    address: str, *, patience: float = 10.0, seconds: float = 60.0, limit: int = 64 << 20, public_only: bool = False
) -> bytes:
    """Returns what lies at an address; redirections are followed.

    Args:
      address: http://... or https://...
      patience: seconds to wait for a connection, or for the next bytes.
      seconds: in which it must be here; looking up the number of a host comes on top, which nothing can end.
      limit: the most bytes that are taken.
      public_only: whether hosts of this machine and of private networks are refused, wherever a redirection leads;
        proxies are then not used.

    Raises:
      UserError: it is another kind of address, nobody answers there, or it takes too long or too many bytes.
    """
    if not address.startswith(SCHEMES):
        raise UserError("only http:// and https:// addresses are fetched; download it and give the file")
    with _Connections(seconds, public_only=public_only) as connections:
        return _download(address, connections, patience, limit)


def _download(address: str, connections: "_Connections", patience: float, limit: int) -> bytes:
    content = bytearray()
    try:
        request = urllib.request.Request(address, headers={"User-Agent": f"jaxtl/{__version__}"})
        with connections.opener().open(request, timeout=patience) as response:
            # read1 gives what has come; read would wait for a whole chunk, however slowly it comes.
            while chunk := response.read1(_CHUNK):
                content += chunk
                if len(content) > limit:
                    raise UserError(f"the address has more than {limit >> 20} MiB, too much for an image")
            missing = response.length
    except urllib.error.HTTPError as error:
        raise UserError(f"the server answered {error.code} {error.reason}; is the address right?") from error
    except TimeoutError as error:
        raise UserError(f"the address did not answer within {patience:g} s") from error
    # An address that cannot be read at all is a ValueError, as is a broken answer (http.client.HTTPException).
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the address cannot be fetched: {getattr(error, 'reason', error) or error!r}") from error
    if missing:
        raise UserError(f"the connection ended {missing:,} bytes before the end of the file; try again")
    return bytes(content)


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to the web alone: not to files, nor to other kinds of server."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith(SCHEMES):
            raise UserError(f"the address leads on to {newurl.partition(':')[0]}:, which is not fetched")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def is_public(text: str) -> bool:
    """Tells whether an IP address is one of the public internet, or stands for such a one.

    >>> [is_public(text) for text in ("8.8.8.8", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1")]
    [True, False, False, False, False]
    """
    ip = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast and ip not in _SPECIAL
    within = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
    if ip in _NAT64:
        within = ipaddress.IPv4Address(ip.packed[-4:])
    if within is not None:
        return is_public(str(within))
    return ip.is_global and ip in _UNICAST


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Of IPv6 nothing else is given to hosts of the internet. Python calls more global: old site-local addresses, those of a
# network's own NAT64, and two older ways to write one of IPv4.
_UNICAST = ipaddress.ip_network("2000::/3")
# For protocols (RFC 6890), and for the data of a cloud about its machines; to Python before 3.11.10 most were global.
_SPECIAL = ipaddress.ip_network("192.0.0.0/24")


def _connect_to_public(place: tuple[str, int], timeout: Any = None, source_address: Any = None) -> socket.socket:
    """Connects to a host by the number that was seen to be public: its name may mean another a moment later."""
    found = [entry[4][0] for entry in socket.getaddrinfo(*place, type=socket.SOCK_STREAM)]
    if not all(is_public(str(number)) for number in found):
        raise UserError(f"{place[0]} is this machine, or one of a private network, from which nothing is fetched")
    return socket.create_connection((str(found[0]), place[1]), timeout, source_address)


class _Connections:
    """The connections of one address, redirections included, which all end when its time is over.

    A socket knows how long one read may take, but a head that comes byte by byte takes as many reads as it likes.
    As a context, it raises UserError where the time was over.
    """

    def __init__(self, seconds: float, *, public_only: bool):
        """Takes the seconds, which begin with the context, and whether hosts must be public."""
        self._seconds, self._public_only = seconds, public_only
        self._opened: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> "_Connections":
        self._until = time.monotonic() + self._seconds
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for each in self._opened:
                each.close()
            self._opened.clear()
        # A connection that was ended here fails in many ways, or looks as if the other end had ended it.
        if self._left() <= 0 and (kind is None or issubclass(kind, UserError)):
            raise UserError(f"the address did not give all of the file in {self._seconds:g} s; download it first")

    def opener(self) -> urllib.request.OpenerDirector:
        """Returns what opens addresses by these connections."""
        handlers = [_WebOnly(), _Handler(self.connect), _SecureHandler(self.connect)]
        return urllib.request.build_opener(*handlers, *([urllib.request.ProxyHandler({})] if self._public_only else []))

    def connect(self, place: tuple[str, int], patience: float, source_address: Any = None) -> socket.socket:
        """Connects to a host; takes what http.client gives its own function."""
        if (left := self._left()) <= 0:
            raise TimeoutError
        connect: Any = _connect_to_public if self._public_only else socket.create_connection
        opened: socket.socket = connect(place, min(patience, left), source_address)
        with self._lock:
            # A second handle of the same connection: TLS takes the first for itself.
            self._opened.append(opened.dup())
        if self._left() <= 0:  # The others were ended while this one was opened.
            self._end()
        return opened

    def _left(self) -> float:
        return self._until - time.monotonic()

    def _end(self) -> None:
        with self._lock:
            for each in self._opened:
                with contextlib.suppress(OSError):  # The other end was faster.
                    each.shutdown(socket.SHUT_RDWR)


class _Connection(http.client.HTTPConnection):
    def __init__(self, *args: Any, connect: Any = socket.create_connection, **options: Any):
        super().__init__(*args, **options)
        self._create_connection = connect


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, *args: Any, connect: Any = socket.create_connection, **options: Any):
        super().__init__(*args, **options)
        self._create_connection = connect


class _Handler(urllib.request.HTTPHandler):
    def __init__(self, connect: Any):
        super().__init__()
        self._connect = connect

    def http_open(self, req: Any) -> Any:
        return self.do_open(_Connection, req, connect=self._connect)


class _SecureHandler(urllib.request.HTTPSHandler):
    def __init__(self, connect: Any):
        super().__init__()
        self._connect = connect

    def https_open(self, req: Any) -> Any:
        return self.do_open(_SecureConnection, req, connect=self._connect)
