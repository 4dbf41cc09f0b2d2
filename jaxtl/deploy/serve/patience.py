"""An HTTP connection that waits for a client only so long: for what it sends, and until it takes what it gets."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def patient_protocol(seconds: float) -> type[H11Protocol]:
    """Returns uvicorn's protocol with an end to its patience.

    By itself it waits for ever for the head of a request, for a body that nobody reads, and until an answer is taken;
    what it has a limit for is the time between two requests. While a request is answered, the application has limits.

    Args:
      seconds: in which a client must send what is missing, and take all that it gets.
    """

    class Patient(H11Protocol):
        _to_send: asyncio.TimerHandle | None = None
        _to_take: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            # Writing then pauses as soon as anything is left to be taken, and resumes when nothing is.
            transport.set_write_buffer_limits(high=0)
            super().connection_made(transport)
            self._await_more()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._await_more()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is not h11.IDLE:
                self._await_more()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._to_take = self._to_take or self._end_later()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._to_take = _cancel(self._to_take)

        def connection_lost(self, exc: Exception | None) -> None:
            self._to_send, self._to_take = _cancel(self._to_send), _cancel(self._to_take)
            super().connection_lost(exc)

        def _await_more(self) -> None:
            """Has the client send the rest in time, counted from the first byte, unless a request is being answered."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._to_send = _cancel(self._to_send)
            else:
                self._to_send = self._to_send or self._end_later()

        def _end_later(self) -> asyncio.TimerHandle:
            # Closing would wait for the client to take what is left.
            return self.loop.call_later(seconds, self.transport.abort)

    return Patient


def _cancel(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Returns what runs when a timer does no more: None."""
    if timer is not None:
        timer.cancel()
    return None
