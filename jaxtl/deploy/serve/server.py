"""The process that serves: its signals, and how it ends."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from jaxtl.deploy.serve.app import Service
from jaxtl.deploy.serve.patience import patient_protocol

# Seconds beyond those in which what was accepted before the end comes, is answered, and its answer is taken.
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
        http=patient_protocol(limits.receive_s),
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="error",  # Clients that send nonsense would fill the log.
        server_header=False,
        limit_concurrency=limits.connections + 1,  # It refuses whoever reaches it.
        timeout_graceful_shutdown=int(limits.receive_s + limits.answer_s + limits.receive_s + _GRACE),
    )
