"""Ctrl-C: the process ends within seconds, with one line that says what is kept, whatever it is doing."""

import gc
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

# What is not needed to take over Ctrl-C is imported later: until then it ends Python with a traceback.
if TYPE_CHECKING:
    import socket

STATUS = 130
# Seconds for files to be closed, and for a checkpoint under way; past them the process ends as it is, which loses
# nothing that is whole. While XLA compiles, Python is not asked for minutes.
GRACE = 3.0


class Interrupts:
    """What Ctrl-C does to this process.

    Attributes:
      run: the workdir of the run under way, to say what is kept of it; None for a command that is no run.
      came: whether it was pressed.
      began: whether the command has begun; before that, nothing is to be closed.
    """

    def __init__(self) -> None:
        """Changes nothing yet."""
        self.run: Path | None = None
        self.came = False
        self.began = False
        self._said = threading.Lock()

    def watch(self) -> None:
        """Takes over Ctrl-C for the rest of this process, unless it is ignored, as in the background of a shell."""
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return
        signal.signal(signal.SIGINT, self._handle)
        import socket

        # The byte wakes the thread at once, where the handler may have to wait for the program that is compiled.
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(receiver, sender), daemon=True, name="jaxtl-interrupts").start()

    def say(self) -> None:
        """Prints the line, if it was not printed before."""
        if self._said.acquire(blocking=False):
            below = "\n" if sys.stderr.isatty() else ""  # The terminal shows ^C.
            print(f"{below}interrupted{self._kept()}", file=sys.stderr, flush=True)

    def leave(self) -> None:
        """Ends the process with the line, without waiting for threads that compute what nobody wants any more."""
        try:
            self.say()
            sys.stdout.flush()
        finally:  # Whoever reads the output may be gone, or a line be just being written.
            os._exit(STATUS)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # What is raised in a callback of the garbage collector, of which JAX has one, is printed and forgotten.
        if frame is not None and frame.f_code in [getattr(each, "__code__", None) for each in gc.callbacks]:
            threading.Timer(0.01, signal.raise_signal, [number]).start()
            return
        # Some libraries print what is raised while they are imported. Once begun, it may be pressed again.
        if self.came or not self.began:
            self.leave()
        self.came = True
        raise KeyboardInterrupt

    def _wait(self, receiver: "socket.socket", sender: "socket.socket") -> None:
        with sender:  # It is open for as long as the thread is there.
            while signal.SIGINT not in receiver.recv(64):
                pass
            threading.Event().wait(GRACE)
            self.leave()

    def _kept(self) -> str:
        if self.run is None:
            return ""
        from jaxtl.checkpoints.folders import steps_in

        steps = steps_in(self.run / "checkpoints")
        if not steps:
            return " before the first checkpoint; started again, the run begins anew"
        return f"; {self.run} keeps the checkpoint of step {steps[-1]}, and started again, the run goes on from there"
