"""The socket of a server, opened before anything is computed, so that a port in use is told at once."""

import errno
import socket

from jaxtl.errors import UserError


def open_socket(host: str, port: int) -> socket.socket:
    """Returns a socket that listens there; port 0 is any that is free.

    Raises:
      UserError: the port is in use, or not to be had, or there is no such host.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"port is {port}, but it must be from 0 to 65535.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise UserError(f"host is {host!r}, which has no address ({error}): give 127.0.0.1 or 0.0.0.0.") from error
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(1024)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} of {host} is in use: stop what serves there, or give another port.") from None
        raise UserError(f"port {port} of {host} is not to be had: {error.strerror}; give another.") from error
    return opened
