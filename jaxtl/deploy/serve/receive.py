"""Reads what a client sends, within limits: images as multipart, as they are, in JSON, or as addresses."""

import asyncio
import base64
import binascii
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from jaxtl.deploy.serve.limits import Limits

_FIELDS = ("images", "urls", "top")


class Refused(Exception):
    """A request that is not answered as it is.

    Attributes:
      status: of HTTP.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
      images: bytes of files, or addresses, each with the name that the answer gives it; "" for its index.
      top: how many of the likeliest classes are wanted.
    """

    images: tuple[tuple[str, bytes | str], ...]
    top: int


class Held:
    """How many bytes are held of all requests that are not answered yet.

    Attributes:
      bytes: so many.
    """

    def __init__(self, limits: Limits):
        """Takes how many may be held."""
        self._megabytes, self.bytes = limits.total_megabytes, 0

    @contextlib.contextmanager
    def share(self) -> Iterator["Share"]:
        """Counts the bytes of one request until the context ends, when they are held no more."""
        share = Share(self)
        try:
            yield share
        finally:
            self.bytes -= share.bytes

    def check(self, share: "Share") -> None:
        """Passes if all may be held.

        Raises:
          Refused: they are too many.
        """
        limit = self._megabytes * 2**20
        if share.bytes > limit:  # It would be refused however often it comes.
            raise Refused(413, f"the images of the request have more than {self._megabytes:g} MB")
        if self.bytes > limit:
            raise Refused(503, "too many requests at a time: come again")


class Share:
    """The bytes of one request, which are of all that is held."""

    def __init__(self, held: Held):
        """Takes all that is held."""
        self._held, self.bytes = held, 0

    def take(self, count: int) -> None:
        """Counts so many bytes as held, from the event loop.

        Raises:
          Refused: they are too many; they are counted nonetheless.
        """
        self.bytes += count
        self._held.bytes += count
        self._held.check(self)


class Receiver:
    """Reads requests."""

    def __init__(self, limits: Limits, *, urls: bool):
        """Takes the limits, and whether addresses are fetched."""
        self._limits, self._urls = limits, urls

    async def receive(self, request: Request, share: Share) -> Asked:
        """Reads a request, whose bytes its share counts.

        Raises:
          Refused: it is malformed, too large, too slow, or asks for what is not done here.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.receive_s):
                async for chunk in self._chunks(request):
                    share.take(len(chunk))
                    body += chunk
        except TimeoutError:
            raise Refused(408, f"the request was not here within {self._limits.receive_s:g} s") from None
        except ClientDisconnect:
            raise Refused(400, "the connection ended within the request") from None
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        top = request.query_params.get("top")
        if kind == "multipart/form-data":
            asked, more = await self._multipart(request.headers, bytes(body))
        elif kind == "application/json":
            asked, more = self._json(bytes(body))
        elif kind.startswith("image/") or kind == "application/octet-stream":
            asked, more = [("", bytes(body))], None
        else:
            raise Refused(
                415, f"the content type {kind!r} is not taken: send multipart/form-data, application/json or image/*"
            )
        if not asked:
            raise Refused(400, "there is no image in the request")
        if len(asked) > self._limits.images:
            raise Refused(413, f"there are {len(asked)} images, more than the {self._limits.images} of one request")
        return Asked(tuple(asked), _number(5 if more is None and top is None else top if more is None else more))

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        limit, taken = self._limits.body_bytes, 0
        told = request.headers.get("content-length", "0")
        too_much = Refused(413, f"the request has more than {self._limits.megabytes:g} MB")
        if told.isdecimal() and int(told[:20]) > limit:
            raise too_much
        async for chunk in request.stream():
            taken += len(chunk)
            if taken > limit:
                raise too_much
            yield chunk

    async def _multipart(self, headers: Headers, body: bytes) -> tuple[list[tuple[str, bytes | str]], Any]:
        async def once() -> AsyncGenerator[bytes, None]:
            yield body

        limits = self._limits
        parser = _InMemory(headers, once(), max_files=limits.images, max_fields=1, max_part_size=64)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            too_many = "Too many files" in error.message
            raise Refused(413 if too_many else 400, f"the multipart body cannot be read: {error.message}") from None
        # Of a body that is no multipart, the parser has errors of several kinds.
        except Exception as error:
            raise Refused(400, f"the multipart body cannot be read: {error!r}") from None
        found: list[tuple[str, bytes | str]] = []
        top = None
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                found.append((value.filename or "", await value.read()))
            elif name == "top":
                top = value
            else:
                raise Refused(400, f"the field {name[:40]!r} is no file; beside files there may be the field top")
        await form.close()
        return found, top

    def _json(self, body: bytes) -> tuple[list[tuple[str, bytes | str]], Any]:
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body is no JSON: {str(error)[:200]}") from None
        if not isinstance(values, dict) or (others := sorted(set(values) - set(_FIELDS))):
            wrong = f"; unknown: {', '.join(map(repr, others))[:200]}" if isinstance(values, dict) else ""
            raise Refused(400, f'the body must be {{"images": [base64, ...], "urls": [...], "top": 5}}{wrong}')
        for name in ("images", "urls"):
            given = values.get(name, [])
            if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
                raise Refused(400, f"{name} must be a list of texts")
        urls = values.get("urls", [])
        if urls and not self._urls:
            raise Refused(403, "this server fetches no addresses: send the images themselves")
        found: list[tuple[str, bytes | str]] = [("", _decode(text)) for text in values.get("images", [])]
        return [*found, *((url, url) for url in urls)], values.get("top")


class _InMemory(MultiPartParser):
    """What is within the limits of a request stays in memory; nothing is written to a disk."""

    spool_max_size = 2**31


def _decode(text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"an image is no base64: {error}") from None


def _number(top: Any) -> int:
    if isinstance(top, str) and top.isdecimal() and len(top) < 6:
        top = int(top)
    if isinstance(top, bool) or not isinstance(top, int) or not 0 < top < 100_000:
        raise Refused(400, "top must be a whole number above 0")
    return top
