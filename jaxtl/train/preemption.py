"""SIGTERM: the machine is wanted back. The step under way is finished and saved, and the process ends in time."""

import os
import signal
import socket
import sys
import threading

from jaxtl.parallel.processes import Vote

# Seconds from the signal to the end, whatever happens: what cannot be saved in them is computed again.
GRACE = 13.0


class Preemption:
    """Watches for SIGTERM from entry on; `requested` is asked at points that all processes pass alike."""

    def __init__(self, grace: float = GRACE):
        """Changes nothing yet."""
        self._grace = grace
        self._vote = Vote()
        self._event = threading.Event()
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="jaxtl-preemption")
        self._before: tuple[object, int] | None = None

    def __enter__(self) -> "Preemption":
        """Takes over the signal; the main thread alone can."""
        if threading.current_thread() is threading.main_thread():
            # Python calls a handler between two of its instructions, which may be minutes away while a program is
            # compiled; a byte in the socket wakes the thread at once.
            descriptor = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
            self._before = (signal.signal(signal.SIGTERM, lambda *_: None), descriptor)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives the signal back; once it has come, it is ignored and the time to the end goes on running."""
        if self._before is not None:
            handler, descriptor = self._before
            # Who starts the processes may send it again when the first of them has ended, while this one still ends.
            signal.signal(signal.SIGTERM, signal.SIG_IGN if self._event.is_set() else handler)  # type: ignore[arg-type]
            signal.set_wakeup_fd(descriptor)
            self._sender.close()
            if not self._event.is_set():
                self._thread.join()
        self._sender.close()
        self._receiver.close()

    def requested(self) -> bool:
        """Tells whether some process got the signal; all processes get the same answer at the same call."""
        return self._vote.any(self._event.is_set())

    def _watch(self) -> None:
        before = self._before[1] if self._before else -1
        while received := self._receiver.recv(64):
            if before >= 0:
                os.write(before, received)  # Whoever watched for signals so far still hears of them.
            if signal.SIGTERM in received:
                break
        else:
            return
        self._event.set()
        print("SIGTERM: saves and ends", file=sys.stderr, flush=True)
        threading.Event().wait(self._grace)
        print(f"not done {self._grace:g} s after SIGTERM: ends as it is", file=sys.stderr, flush=True)
        os._exit(os.EX_TEMPFAIL)
