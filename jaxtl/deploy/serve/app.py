"""The application: which addresses there are, and what each answers."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from jaxtl.deploy.predictor import Predictor
from jaxtl.deploy.serve import pages
from jaxtl.deploy.serve.batching import Batcher, Busy
from jaxtl.deploy.serve.limits import Limits
from jaxtl.deploy.serve.metrics import Metrics
from jaxtl.deploy.serve.openapi import describe
from jaxtl.deploy.serve.reading import Reader
from jaxtl.deploy.serve.receive import Asked, Held, Receiver, Refused, Share

T = TypeVar("T")

_SOON = {"Retry-After": "1"}


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        """Writes other letters as numbers: a client's texts may hold what no encoding has."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Service:
    """Answers requests by one predictor.

    Attributes:
      stopping: set when nothing more is to be taken, so that whoever asks whether it is ready sends no more.
      problem: what the programs failed of, as for want of memory; None as long as they did not.
    """

    def __init__(self, predictor: Predictor, limits: Limits, *, urls: bool = False, private_urls: bool = False):
        """Takes what predicts; compiling begins with the application.

        Args:
          predictor: what answers.
          limits: of requests.
          urls: whether addresses of images are fetched.
          private_urls: whether those of this machine and its network are, too.
        """
        self.predictor, self.limits, self.stopping = predictor, limits, False
        self.batcher = Batcher(
            predictor.logits_of_views,
            batch_size=predictor.batch_size,
            delay=limits.delay_ms / 1e3,
            latency=limits.latency_ms / 1e3,
            computed=lambda images, seconds: self.metrics.computed(images, seconds),
        )
        self.metrics = Metrics(lambda: self.batcher.accepted, lambda: self.ready)
        self.problem: Exception | None = None
        self._warm = False
        self.held = Held(limits)
        self._receiver = Receiver(limits, urls=urls)
        self._reader = Reader(predictor, limits, private_urls=private_urls)
        self._openapi = describe(predictor, limits, urls=urls)

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self._warm and not self.stopping and self.batcher.is_alive()

    def warm_up(self) -> None:
        """Compiles the programs of all batch sizes, and measures the largest."""
        try:
            self.predictor.warm_up()
            self.batcher.measure(self.predictor.blank)
            self._warm = True
        except Exception as error:
            self.problem = error

    def application(self) -> Starlette:
        """Returns the application; its programs are compiled while it says that it is not ready."""
        page = pages.index(self.predictor, self.limits)
        documents = pages.documents(self._openapi)
        routes = [
            Route("/", lambda request: _html(page), methods=["GET"]),
            Route("/docs", lambda request: _html(documents), methods=["GET"]),
            Route("/openapi.json", lambda request: _Json(self._openapi), methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/ready", self._ready, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/predict", self._predict, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {HTTPException: _http_error, Exception: _server_error}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, application: Starlette) -> AsyncIterator[None]:
        warming = asyncio.get_running_loop().run_in_executor(None, self.warm_up)
        try:
            yield
        finally:
            await warming
            await asyncio.get_running_loop().run_in_executor(None, self.batcher.close)
            self._reader.close()

    async def _health(self, request: Request) -> Response:
        alive = self.batcher.is_alive() and self.problem is None
        return _Json({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    async def _ready(self, request: Request) -> Response:
        status = "ready" if self.ready else "stopping" if self.stopping else "warming up"
        return _Json({"status": status}, 200 if self.ready else 503)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _predict(self, request: Request) -> Response:
        began, status = time.perf_counter(), 500
        try:
            response = await self._answer(request)
            status = response.status_code
            return response
        except Refused as refused:
            status = refused.status
            # Of these the body may not be read to its end: the connection ends here.
            headers = {"Connection": "close"} if status in (408, 413, 503) else {}
            headers |= _SOON if status == 503 else {}
            return _Json({"error": str(refused)}, status, headers)
        finally:
            self.metrics.requests.labels(str(status)).inc()
            self.metrics.seconds.observe(time.perf_counter() - began)

    async def _answer(self, request: Request) -> Response:
        if not self._warm:
            raise Refused(503, "not ready yet: come again")
        with self.held.share() as share:
            asked = await self._receiver.receive(request, share)
            lines = await self._lines_in_time(asked, share)
        count = len(asked.images)
        failed = sum("error" in line for line in lines)
        self.metrics.images.labels("predicted").inc(count - failed)
        self.metrics.images.labels("unreadable").inc(failed)
        if failed == count == 1:
            raise Refused(422, lines[0]["error"])
        answer = {"model": self.predictor.facts.get("model", ""), "predictions": lines}
        return _Json(answer, 422 if failed == count else 200, {"Cache-Control": "no-store"})

    async def _lines_in_time(self, asked: Asked, share: Share) -> list[dict[str, Any]]:
        try:
            async with asyncio.timeout(self.limits.answer_s):
                return await self._lines(asked, share)
        except TimeoutError:
            raise Refused(503, f"there was no answer within {self.limits.answer_s:g} s: come again") from None
        except Busy:
            raise Refused(503, "too many images are waiting: come again") from None

    async def _lines(self, asked: Asked, share: Share) -> list[dict[str, Any]]:
        """Returns what is said of the images of a request, as `Predictor.lines` has it."""
        # What is fetched may take long, and is not waited for by others: nothing is taken before it is there.
        found = await _all_of(self._fetch(given, share) for _, given in asked.images)
        self.batcher.accept(len(found))
        try:
            return await _all_of(self._line(asked, i, each) for i, each in enumerate(found))
        finally:
            self.batcher.release(len(found))

    async def _fetch(self, given: bytes | str, share: Share) -> bytes | str:
        """Returns the bytes of an image, or why there are none; those of a request are counted already."""
        if isinstance(given, bytes):
            return given
        found = await self._reader.fetch(given)
        share.take(len(found))
        return found

    async def _line(self, asked: Asked, index: int, encoded: bytes | str) -> dict[str, Any]:
        name, _ = asked.images[index]
        place: dict[str, Any] = {"file": name} if name else {"index": index}
        view = encoded if isinstance(encoded, str) else await self._reader.view(encoded)
        if isinstance(view, str):
            return {**place, "error": view}
        logits = await asyncio.wrap_future(self.batcher.submit(view))
        return {**place, **self.predictor.judge_of(asked.top)(logits)}


async def _all_of(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Returns what all of them return, or raises what the first raises; then none of the others goes on."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in coroutines]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _html(text: str) -> Response:
    return HTMLResponse(text, headers=pages.headers(text))


async def _http_error(request: Request, error: Any) -> Response:
    return _Json({"error": f"{error.detail}: see /docs"}, error.status_code, error.headers)


async def _server_error(request: Request, error: Exception) -> Response:
    return _Json({"error": "a mistake of the server, which its log tells"}, 500)
