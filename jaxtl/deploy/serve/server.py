"""The process that serves: its signals, and connections that send nothing."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from jaxtl.deploy.serve.app import Service
from jaxtl.deploy.serve.limits import Limits

# Seconds beyond those that an answer may take, for what was accepted before the end.
_GRACE = 5


class Server(uvicorn.Server):
    """Serves until it is told to stop, ends with what it has accepted, and then as if nothing had happened."""

    def __init__(self, service: Service):
        """Takes what answers."""
        super().__init__(_config(service))
        self._service = service

    def run_on(self, listening: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
        """Answers requests until SIGTERM or SIGINT, or `stop`; what was accepted by then is answered.

        Args:
          listening: the socket, which is closed in the end.
          ready: is called once, when requests are answered.

        Raises:
          Exception: the programs cannot be compiled or computed.
        """
        asyncio.run(self._run_on(listening, ready))
        if self._service.problem is not None:
            raise self._service.problem

    def stop(self) -> None:
        """Takes no more connections, and ends when those that are there are answered; from any thread."""
        self._service.stopping = self.should_exit = True

    async def _run_on(self, listening: socket.socket, ready: Callable[[], None]) -> None:
        with contextlib.suppress(
            NotImplementedError, RuntimeError, ValueError
        ):  # The first thread alone hears signals.
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self.stop)
        telling = asyncio.create_task(self._tell(ready))
        try:
            await self.serve([listening])
        finally:
            telling.cancel()

    async def _tell(self, ready: Callable[[], None]) -> None:
        while not (self.started and self._service.ready):
            if self._service.problem is not None:
                return self.stop()
            await asyncio.sleep(0.05)
        ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone, since `run_on` hears them."""
        yield


def _config(service: Service) -> uvicorn.Config:
    limits = service.limits
    return uvicorn.Config(
        service.application(),
        http=_patient_protocol(limits),
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="error",  # Clients that send nonsense would fill the log.
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=int(limits.answer_s + limits.receive_s + _GRACE),
    )


def _patient_protocol(limits: Limits) -> type[H11Protocol]:
    """Returns uvicorn's protocol with an end to its patience: it waits for ever for the head of a request."""

    class Patient(H11Protocol):
        _deadline: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # Idle is who has sent no whole head; between two requests uvicorn itself waits for a few seconds only.
            if self.conn.their_state is not h11.IDLE:
                self._cancel()
            elif self._deadline is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._deadline = self.loop.call_later(limits.receive_s, self.transport.close)

        def _cancel(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Patient
