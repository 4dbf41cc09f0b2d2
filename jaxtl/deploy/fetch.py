"""Fetches one image from an address: in bounded time, and no more than an image is large."""

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


def fetch(address: str, *, patience: float = 10.0, seconds: float = 60.0, limit: int = 64 << 20) -> bytes:
    """Returns what lies at an address; redirections are followed.

    Args:
      address: http://... or https://...
      patience: seconds to wait for a connection, or for the next bytes.
      seconds: in which it must be here.
      limit: the most bytes that are taken.

    Raises:
      UserError: it is another kind of address, nobody answers there, or it takes too long or too many bytes.
    """
    if not address.startswith(SCHEMES):
        raise UserError("only http:// and https:// addresses are fetched; download it and give the file")
    until = time.monotonic() + seconds
    content = bytearray()
    try:
        request = urllib.request.Request(address, headers={"User-Agent": f"jaxtl/{__version__}"})
        with _opener().open(request, timeout=patience) as response:
            # read1 gives what has come; read would wait for a whole chunk, however slowly it comes.
            while chunk := response.read1(_CHUNK):
                content += chunk
                if len(content) > limit:
                    raise UserError(f"the address has more than {limit >> 20} MiB, too much for an image")
                if time.monotonic() > until:
                    raise UserError(f"the address did not give all of the file in {seconds:g} s; download it first")
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


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_WebOnly)
